//! Load generator: schedule, client, report.
