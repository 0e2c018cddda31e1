//! One file per command.

pub mod nim;
