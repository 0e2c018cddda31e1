//! One file per command.

pub mod check;
pub mod init;
pub mod nim;
pub mod schema;
pub mod serve;
