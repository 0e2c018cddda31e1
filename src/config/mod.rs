//! Configuration: as written (`file`), as meant ([`settings`]), and kept current (`reload`).

pub mod settings;
