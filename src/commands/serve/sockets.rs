//! Listening sockets that go from one process to the next, over a Unix socket (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Version of what is said; another one is refused.
const VERSION: u32 = 1;
/// Most sockets at once; the kernel takes 253.
const MOST: usize = 250;
/// Longest list of addresses.
const LONGEST: u64 = 64 << 10;

/// Listening sockets by the address that the configuration gives them: port 0 stays 0 there.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    data: Vec<(SocketAddr, OwnedFd)>,
    admin: Option<(SocketAddr, OwnedFd)>,
}

/// What the sockets that come along are.
#[derive(Debug, Serialize, Deserialize)]
struct Cover {
    headway_hand_over: u32,
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Sockets {
    /// Those of a process.
    pub(super) fn of(data: Vec<(SocketAddr, OwnedFd)>, admin: (SocketAddr, OwnedFd)) -> Self {
        Self { data, admin: Some(admin) }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.admin.is_none()
    }

    /// The same sockets, by handles of their own.
    pub(super) fn again(&self) -> io::Result<Self> {
        let copy = |(address, fd): &(SocketAddr, OwnedFd)| Ok((*address, fd.try_clone()?));
        let data = self.data.iter().map(copy).collect::<io::Result<_>>()?;
        Ok(Self { data, admin: self.admin.as_ref().map(copy).transpose()? })
    }

    /// Takes the data listener that was configured with this address.
    pub(super) fn take_data(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.data.iter().position(|(known, _)| *known == address)?;
        Some(TcpListener::from(self.data.remove(at).1))
    }

    /// Takes the admin listener, if it was configured with this address.
    pub(super) fn take_admin(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let (_, socket) = self.admin.take_if(|(known, _)| *known == address)?;
        Some(TcpListener::from(socket))
    }

    /// Sends them all. Blocking.
    pub(super) fn send(&self, to: &UnixStream) -> io::Result<()> {
        let cover = Cover {
            headway_hand_over: VERSION,
            listeners: self.data.iter().map(|(address, _)| *address).collect(),
            admin: self.admin.as_ref().map(|(address, _)| *address),
        };
        let sockets: Vec<BorrowedFd<'_>> = self.data.iter().chain(&self.admin).map(|(_, fd)| fd.as_fd()).collect();
        let mut line = serde_json::to_vec(&cover)?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        if sockets.len() > MOST || !along.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other(format!("more than {MOST} listeners cannot be handed over")));
        }
        let sent = sendmsg(to, &[IoSlice::new(&line)], &mut along, SendFlags::empty())?;
        (&*to).write_all(line.get(sent..).unwrap_or_default())
    }

    /// Receives what another process sends. Blocking.
    pub(super) fn receive(from: &UnixStream) -> io::Result<Self> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut line = vec![0; 4096];
        let received = recvmsg(from, &mut [IoSliceMut::new(&mut line)], &mut along, RecvFlags::CMSG_CLOEXEC)?;
        line.truncate(received.bytes);
        let mut sockets = along.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets.collect::<Vec<_>>()),
            _ => None,
        });
        let sockets = sockets.next().unwrap_or_default();
        while !line.ends_with(b"\n") && (line.len() as u64) < LONGEST {
            let mut byte = [0];
            from.take(1).read_exact(&mut byte)?;
            line.extend(byte);
        }
        let cover: Cover = serde_json::from_slice(&line)?;
        let wanted = cover.listeners.len() + usize::from(cover.admin.is_some());
        if cover.headway_hand_over != VERSION || sockets.len() != wanted {
            let message = format!("{} sockets came, version {}", sockets.len(), cover.headway_hand_over);
            return Err(io::Error::other(message));
        }
        let mut sockets = sockets.into_iter();
        let data = cover.listeners.into_iter().zip(&mut sockets).collect();
        Ok(Self { data, admin: cover.admin.zip(sockets.next()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str) -> (SocketAddr, OwnedFd, SocketAddr) {
        let listener = TcpListener::bind(address).unwrap();
        let real = listener.local_addr().unwrap();
        (address.parse().unwrap(), listener.into(), real)
    }

    #[test]
    fn sockets_arrive_under_the_addresses_they_were_configured_with() {
        let [first, second, admin] = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"].map(listener);
        let places = [first.2, second.2, admin.2];
        let sockets = Sockets::of(vec![(first.0, first.1), (second.0, second.1)], (admin.0, admin.1));
        let (one, other) = UnixStream::pair().unwrap();
        sockets.send(&one).unwrap();
        drop(sockets);
        let mut sockets = Sockets::receive(&other).unwrap();
        assert!(sockets.take_data("127.0.0.1:80".parse().unwrap()).is_none());
        assert!(sockets.take_admin("127.0.0.1:0".parse().unwrap()).is_none());
        for place in &places[..2] {
            let taken = sockets.take_data("127.0.0.1:0".parse().unwrap()).unwrap();
            assert_eq!(taken.local_addr().unwrap(), *place, "in the order of the configuration");
            std::net::TcpStream::connect(place).expect("it still listens");
        }
        let taken = sockets.take_admin("[::1]:0".parse().unwrap()).unwrap();
        assert_eq!(taken.local_addr().unwrap(), places[2]);
        assert!(sockets.is_empty());
    }

    #[test]
    fn what_is_no_cover_is_refused() {
        for line in ["{}\n", "{\"headway_hand_over\":2,\"listeners\":[],\"admin\":null}\n", "x\n", ""] {
            let (one, other) = UnixStream::pair().unwrap();
            (&one).write_all(line.as_bytes()).unwrap();
            drop(one);
            assert!(Sockets::receive(&other).is_err(), "{line:?}");
        }
        let missing = "{\"headway_hand_over\":1,\"listeners\":[\"127.0.0.1:1\"],\"admin\":null}\n";
        let (one, other) = UnixStream::pair().unwrap();
        (&one).write_all(missing.as_bytes()).unwrap();
        assert!(Sockets::receive(&other).is_err(), "no socket came along");
    }
}
