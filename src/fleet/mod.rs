//! Live state: backends, in-flight requests, rolling windows, health, discovery.
