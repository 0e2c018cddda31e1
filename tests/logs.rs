//! The process's log: there is one, and its level can be changed while it runs. A process of its own, for both are
//! the whole process's.

use headway::config::settings::Level;
use headway::telemetry::logs::{self, LogError};
use tracing::level_filters::LevelFilter;

#[test]
fn a_process_has_one_log_whose_level_can_be_changed() {
    logs::init(Level::Error).expect("the first");
    assert!(matches!(logs::init(Level::Error), Err(LogError::AlreadySet)));
    assert_eq!((LevelFilter::current(), log::max_level()), (LevelFilter::ERROR, log::LevelFilter::Error));
    logs::set_level(Level::Debug);
    assert_eq!((LevelFilter::current(), log::max_level()), (LevelFilter::DEBUG, log::LevelFilter::Warn));
}
