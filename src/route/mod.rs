//! Turns a snapshot of the fleet into a decision. Pure.
