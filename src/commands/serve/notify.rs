//! Tells the service manager how it goes: `sd_notify(3)`, without its library.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often something that must not be lost is said again to a manager that is behind with reading.
const TIMES: u32 = 100;

/// How long to wait between.
const PAUSE: Duration = Duration::from_millis(20);

/// A socket of the service manager; without one, nothing is said.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear from this process.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The one that this process was started with.
    pub(super) fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let ours = |pid: String| pid == std::process::id().to_string();
        let watchdog = variable("WATCHDOG_USEC")
            .filter(|_| variable("WATCHDOG_PID").is_none_or(ours))
            .and_then(|micros| micros.parse().ok())
            .filter(|&micros| micros > 0)
            .map(Duration::from_micros);
        Self::to(variable("NOTIFY_SOCKET").as_deref(), watchdog)
    }

    fn to(place: Option<&str>, watchdog: Option<Duration>) -> Self {
        let address = place.and_then(|place| match place.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(place).ok(),
        });
        let to = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        Self { to, watchdog }
    }

    /// Says it; a manager that does not listen misses it.
    pub(super) fn say(&self, state: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }

    /// Says it again and again, within two seconds, to a manager that is behind with reading.
    pub(super) async fn insist(&self, state: &str) {
        let Some((socket, address)) = &self.to else { return };
        for _ in 0..TIMES {
            match socket.send_to_addr(state.as_bytes(), address) {
                Ok(_) => return,
                Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(PAUSE).await,
                Err(error) => return tracing::warn!(%error, "the service manager was not told `{}`", first_line(state)),
            }
        }
        tracing::warn!("the service manager does not read, and was not told `{}`", first_line(state));
    }

    /// How often to say that this process lives: twice in the time after which it is taken for dead.
    pub(super) fn sign_of_life(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.to.is_some()).map(|watchdog| watchdog / 2)
    }
}

fn first_line(state: &str) -> &str {
    state.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        Notifier::to(path.to_str(), None).say("READY=1\nSTATUS=ready");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=ready");
        let name = format!("headway-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::to(Some(&format!("@{name}")), None).say("STOPPING=1");
        assert_eq!(heard(&manager), "STOPPING=1");
    }

    #[tokio::test]
    async fn what_must_not_be_lost_waits_for_a_manager_that_is_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.to_str(), None);
        let full = |(socket, address): &(UnixDatagram, SocketAddr)| socket.send_to_addr(b"STATUS=", address).is_err();
        while !notifier.to.as_ref().is_some_and(full) {}
        notifier.say("lost");
        let telling = tokio::spawn(async move { notifier.insist("MAINPID=7").await });
        tokio::time::sleep(PAUSE * 2).await;
        assert!(!telling.is_finished(), "it waits");
        let reading = tokio::task::spawn_blocking(move || (0..100_000).find(|_| heard(&manager) == "MAINPID=7"));
        let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
        assert!(read.unwrap().unwrap().is_some());
        telling.await.unwrap();
    }

    #[test]
    fn nobody_is_told_where_nobody_listens() {
        Notifier::to(None, None).say("READY=1");
        Notifier::to(Some("/nowhere/at/all"), None).say("READY=1");
        assert_eq!(Notifier::to(None, Some(Duration::from_secs(10))).sign_of_life(), None);
        let ten = Some(Duration::from_secs(10));
        assert_eq!(Notifier::to(Some("/nowhere"), ten).sign_of_life(), Some(Duration::from_secs(5)));
    }
}
