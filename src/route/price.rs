//! What a request costs on a backend.

/// How a backend is paid for, in the configuration's currency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Price {
    /// By the hour and GPU.
    PerGpuHour {
        /// One GPU for one hour.
        per_gpu_hour: f64,
        /// How many GPUs the backend uses.
        gpus: u32,
    },
    /// By the token.
    PerToken {
        /// One million input tokens.
        input_per_mtok: f64,
        /// One million input tokens read from a prefix cache.
        cached_input_per_mtok: f64,
        /// One million output tokens.
        output_per_mtok: f64,
    },
}
