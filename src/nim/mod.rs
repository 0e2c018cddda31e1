//! NIM profile names and what they say. Pure.
