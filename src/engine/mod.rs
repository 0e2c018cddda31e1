//! Model of a serving engine in virtual time, and named GPU profiles. Pure.
