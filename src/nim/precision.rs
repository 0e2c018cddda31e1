//! The number formats that weights are kept in.

/// A number format, as profile names have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point.
    Fp16,
    /// 16-bit floating point with the exponent of 32.
    Bf16,
    /// 8-bit floating point.
    Fp8,
    /// 8-bit integers.
    Int8,
    /// 4-bit floating point with a scale per 16 values.
    Nvfp4,
    /// 4-bit floating point with a scale per 32 values.
    Mxfp4,
    /// 4-bit integers.
    Int4,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Fp32, Self::Fp16, Self::Bf16, Self::Fp8, Self::Int8, Self::Nvfp4, Self::Mxfp4, Self::Int4];

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp4 => "mxfp4",
            Self::Int4 => "int4",
        }
    }

    /// The precision of that name, in either case.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(text))
    }

    /// Bits of one value, scales not counted.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::Fp32 => 32,
            Self::Fp16 | Self::Bf16 => 16,
            Self::Fp8 | Self::Int8 => 8,
            Self::Nvfp4 | Self::Mxfp4 | Self::Int4 => 4,
        }
    }

    /// Bytes of one weight, the scales of small blocks counted: one byte per 16 or 32 values of the 4-bit floats.
    #[must_use]
    pub fn bytes_per_weight(self) -> f64 {
        let scale = match self {
            Self::Nvfp4 => 1.0 / 16.0,
            Self::Mxfp4 => 1.0 / 32.0,
            _ => 0.0,
        };
        f64::from(self.bits()) / 8.0 + scale
    }

    /// Whether it is of integers: at equal bits NIM takes floating point first.
    #[must_use]
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4)
    }

    /// Its place in NIM's order: fewer bits first, floating point before integers, fp16 before bf16.
    #[must_use]
    pub fn rank(self) -> (u32, bool, bool) {
        (self.bits(), self.is_integer(), self == Self::Bf16)
    }
}
