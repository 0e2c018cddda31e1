//! What a GPU says of itself, whoever asks it: NVML on this host, a DCGM exporter on another.

/// One GPU, or one MIG instance, at one moment. Every figure may be missing: which ones a GPU tells depends on its
/// kind, on MIG and on permissions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GpuReading {
    /// Share of the last sampling period in which something ran on it. It says busy, not full: one small kernel counts.
    pub utilization: Option<f64>,
    /// Bytes of its memory that are allocated; an engine allocates its whole key/value cache at its start.
    pub memory_used: Option<u64>,
    /// Bytes of memory it has.
    pub memory_total: Option<u64>,
    /// Watts.
    pub power_watts: Option<f64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// The clock of its multiprocessors.
    pub clock_hertz: Option<f64>,
    /// Why that clock is below what it could be.
    pub slowdowns: Option<Slowdowns>,
}

impl GpuReading {
    /// Whether it says nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether heat or hardware slows it; see [`Slowdowns::throttled`].
    #[must_use]
    pub fn throttled(&self) -> Option<bool> {
        self.slowdowns.map(Slowdowns::throttled)
    }

    /// Everything that slows it, as far as it tells.
    pub fn slowed_by(&self) -> impl Iterator<Item = &'static str> {
        self.slowdowns.into_iter().flat_map(Slowdowns::reasons)
    }
}

/// Reasons for which a GPU runs below the clock it could have, as NVML and DCGM number their bits
/// (<https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowdowns(pub u64);

impl Slowdowns {
    /// Those that nobody asked for; an idle GPU and clocks that were set on purpose are none.
    const REASONS: [(u64, &'static str); 5] = [
        (0x04, Self::POWER_CAP),
        (0x08, "hw_slowdown"),
        (0x20, "sw_thermal_slowdown"),
        (0x40, "hw_thermal_slowdown"),
        (0x80, "hw_power_brake_slowdown"),
    ];
    const POWER_CAP: &'static str = "sw_power_cap";

    /// The reasons that hold, in NVML's words.
    pub fn reasons(self) -> impl Iterator<Item = &'static str> {
        Self::REASONS.into_iter().filter(move |(bit, _)| self.0 & bit != 0).map(|(_, name)| name)
    }

    /// Whether heat or hardware slows it. Its power cap alone does not count: boards of little power run at their cap
    /// whenever they are busy, and an alarm that always rings says nothing.
    #[must_use]
    pub fn throttled(self) -> bool {
        self.reasons().any(|reason| reason != Self::POWER_CAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bits: u64, reasons: &[&str], throttled: bool) {
        let slowdowns = Slowdowns(bits);
        assert_eq!((slowdowns.reasons().collect::<Vec<_>>(), slowdowns.throttled()), (reasons.to_vec(), throttled));
    }

    #[test]
    fn only_heat_and_hardware_throttle() {
        check(0, &[], false);
        check(0x01, &[], false);
        check(0x02 | 0x10 | 0x100, &[], false);
        check(0x04, &["sw_power_cap"], false);
        check(0x04 | 0x40, &["sw_power_cap", "hw_thermal_slowdown"], true);
        check(0x08, &["hw_slowdown"], true);
        check(0x20, &["sw_thermal_slowdown"], true);
        check(0x80 | 1 << 40, &["hw_power_brake_slowdown"], true);
    }
}
