//! Arguments as written; nothing is executed here.
