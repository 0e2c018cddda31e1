//! zlib under the name of zlib-ng, so that `flate2` (which pingora builds with its `zlib-ng` feature) needs no cmake.
//!
//! The two initialisers are overridden because `flate2` passes zlib-ng's version string, which plain zlib refuses.
#![allow(non_snake_case)]
#![allow(clippy::missing_safety_doc)]

pub use libz_sys::*;
use std::ffi::{c_char, c_int};

/// As zlib's, with zlib's own version string in place of the caller's.
pub unsafe fn deflateInit2_(
    strm: z_streamp,
    level: c_int,
    method: c_int,
    window_bits: c_int,
    mem_level: c_int,
    strategy: c_int,
    _version: *const c_char,
    size: c_int,
) -> c_int {
    libz_sys::deflateInit2_(strm, level, method, window_bits, mem_level, strategy, zlibVersion(), size)
}

/// As zlib's, with zlib's own version string in place of the caller's.
pub unsafe fn inflateInit2_(
    strm: z_streamp,
    window_bits: c_int,
    _version: *const c_char,
    size: c_int,
) -> c_int {
    libz_sys::inflateInit2_(strm, window_bits, zlibVersion(), size)
}
