//! Replacing a process by a new one without refusing anybody: at SIGUSR2 a sidecar starts the program that is now at its path,
//! with its own arguments, and hands it the sockets that it listens on.
//!
//! ```text
//!   old                                        new (its standard input is the other end of a socket pair)
//!    │ each socket with its label, SCM_RIGHTS ───► takes those that its configuration names, opens what else it names
//!    │ end ──────────────────────────────────────► reads the registry; accepts; tells the service manager that it is the one
//!    ◄──────────────────────────────── accepting │
//!    │ what came meanwhile ──────────────────────► is drained too, reads its configuration again, opens its log again
//!    │ accepts no more, finishes what runs, ends
//!    ╳ ── the end of the pair ───────────────────► takes the snapshot file over
//! ```
//!
//! Both hold the same sockets (one open file description each), so whoever waits in one is accepted by either, and nothing that
//! the old one closes resets anybody. Until the new one accepts nothing has changed: if it ends, or takes too long, the old one
//! serves on and says why.
//!
//! The new one is a child, rather than the other side of a socket in the file system: whoever may signal the process may replace
//! it, no path is there to be taken by others, and a service manager finds it in the same unit.

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::signals;
use crate::descriptor;
use crate::listener::{HeldSocket, Label};

/// Says to the new process that its standard input is such a pair, and which process has the other end. Not one of
/// `TOLLGATE_...`, which are keys of the configuration.
const VARIABLE: &str = "_TOLLGATE_TAKES_OVER_FROM";

/// What the service manager said of the old process only.
const OF_THE_OLD: [&str; 5] = ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// How long the new process may take until it accepts.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one message may take.
const MESSAGE_TIME: Duration = Duration::from_secs(10);

/// No message is longer: a path has 107 bytes at most.
const MAX_MESSAGE: usize = 4096;

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    /// The socket that comes along is this.
    Socket(Label),
    /// That was all.
    End(State),
}

/// What the new process takes over beside sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// An operator has drained it.
    #[serde(default)]
    pub drained: bool,
    /// SIGHUP came after the new process was started, which may have read its configuration by then.
    #[serde(default)]
    pub reload: bool,
    /// And so did SIGUSR1, with the access log.
    #[serde(default)]
    pub reopen: bool,
}

/// What the new process says: one byte.
const ACCEPTING: u8 = b'a';

/// Why nobody has taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeOverError {
    #[error(
        "this is process 1: when it ended, its container would, and the new process with it; start another container instead"
    )]
    First,
    #[error("holding the sockets for it")]
    Descriptors(#[source] io::Error),
    #[error("starting {}", .program.display())]
    Start {
        program: OsString,
        #[source]
        source: io::Error,
    },
    #[error("handing the sockets over to process {process}")]
    Hand {
        process: u32,
        #[source]
        source: io::Error,
    },
    #[error("process {process} ended ({status}) before it accepted: its log says why")]
    Ended { process: u32, status: ExitStatus },
    #[error("process {process} did not accept within {PATIENCE:?}, and was ended")]
    Late { process: u32 },
}

impl TakeOverError {
    /// Whether it was ended before its first instruction by a signal that ends none that runs: to all processes of the unit, say.
    pub(super) fn is_accident(&self) -> bool {
        match self {
            Self::Ended { status, .. } => status.signal().is_some_and(signals::is_held),
            Self::Hand { source, .. } => matches!(source.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            _ => false,
        }
    }
}

/// The process that shall take over. Ended when dropped, unless it accepts.
pub(super) struct Successor {
    child: Option<Child>,
    /// Its id.
    pub process: u32,
    channel: AsyncFd<OwnedFd>,
}

impl Successor {
    /// Starts it, and hands these over. Must be called within a runtime; blocks until it reads them.
    ///
    /// # Errors
    /// When it cannot start; when it ends at once, or takes nothing.
    pub(super) fn start(sockets: Vec<(Label, OwnedFd)>, state: State) -> Result<Self, TakeOverError> {
        if std::process::id() == 1 {
            return Err(TakeOverError::First);
        }
        let mut arguments = env::args_os();
        let program = arguments.next().unwrap_or_else(|| "tollgate".into());
        let failed = |source| TakeOverError::Start { program: program.clone(), source };
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|error| failed(error.into()))?;
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::from(theirs)).env(VARIABLE, std::process::id().to_string());
        for name in OF_THE_OLD {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(failed)?;
        // With it goes this process's copy of the other end.
        drop(command);
        let process = child.id();
        let mut child = Some(child);
        let handed = hand(&ours, &sockets, state).and_then(|()| {
            rustix::io::ioctl_fionbio(&ours, true)?;
            descriptor::register(ours)
        });
        match handed {
            Ok(channel) => Ok(Self { child, process, channel }),
            Err(source) => {
                end(&mut child);
                Err(TakeOverError::Hand { process, source })
            }
        }
    }

    /// Waits until it accepts: from then on it is on its own, and takes the end of what this returns for that of this process.
    /// Cancelled, it is ended.
    ///
    /// # Errors
    /// When it does not; then it is gone.
    pub(super) async fn accepts(mut self) -> Result<Self, TakeOverError> {
        let process = self.process;
        let Ok(said) = tokio::time::timeout(PATIENCE, self.hear()).await else {
            return Err(TakeOverError::Late { process });
        };
        if said {
            // Nobody waits for it any more: it outlives this process.
            self.child = None;
            return Ok(self);
        }
        let status = self.child.take().map(|mut child| tokio::task::spawn_blocking(move || child.wait()));
        match status {
            Some(waiting) => match waiting.await {
                Ok(Ok(status)) => Err(TakeOverError::Ended { process, status }),
                Ok(Err(source)) => Err(TakeOverError::Hand { process, source }),
                Err(error) => Err(TakeOverError::Hand { process, source: error.into() }),
            },
            None => Err(TakeOverError::Late { process }),
        }
    }

    /// Tells it what has become of this process while it started.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn pass(&self, state: State) -> io::Result<()> {
        say(self.channel.get_ref(), &Said::End(state), &[])
    }

    /// Whether it said that it accepts; else it has closed its end.
    async fn hear(&self) -> bool {
        let mut byte = [0];
        loop {
            let Ok(mut ready) = self.channel.readable().await else { return false };
            // An error means that there is nothing yet.
            if let Ok(read) = ready.try_io(|channel| Ok(rustix::io::read(channel.get_ref(), &mut byte)?)) {
                return read.is_ok_and(|length| byte[..length] == [ACCEPTING]);
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        child.kill().ok(); // it may have ended by itself
        std::thread::spawn(move || child.wait());
    }
}

fn hand(to: &OwnedFd, sockets: &[(Label, OwnedFd)], state: State) -> io::Result<()> {
    SockRef::from(to).set_write_timeout(Some(MESSAGE_TIME))?;
    for (label, socket) in sockets {
        say(to, &Said::Socket(label.clone()), &[socket.as_fd()])?;
    }
    say(to, &Said::End(state), &[])
}

fn say(to: &OwnedFd, message: &Said, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !along.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(&text)], &mut along, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The process that this one takes over from.
#[derive(Debug)]
pub(super) struct Predecessor {
    /// Its id.
    pub process: String,
    channel: OwnedFd,
}

/// What it hands over.
#[derive(Debug, Default)]
pub(super) struct Handed {
    pub sockets: Vec<HeldSocket>,
    pub state: State,
}

impl Predecessor {
    /// What this process was started to take over, and from whom; `None`: nothing. Blocks.
    ///
    /// # Errors
    /// When the other one does not say it.
    pub(super) fn find() -> io::Result<Option<(Self, Handed)>> {
        let Some(process) = env::var_os(VARIABLE) else { return Ok(None) };
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        SockRef::from(&channel).set_read_timeout(Some(MESSAGE_TIME))?;
        let mut sockets = Vec::new();
        loop {
            match hear(&channel)? {
                (Said::Socket(label), Some(socket)) => sockets.push(HeldSocket::labelled(socket, label)?),
                (Said::Socket(_), None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (Said::End(state), _) => {
                    let process = process.to_string_lossy().into_owned();
                    return Ok(Some((Self { process, channel }, Handed { sockets, state })));
                }
            }
        }
    }

    /// Lets it go: this process accepts. Says what has become of the other one while this one started, and waits until it has ended.
    /// Must be awaited within a runtime.
    pub(super) async fn relieve(self, meanwhile: impl FnOnce(State)) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.channel, true)?;
        rustix::io::write(&self.channel, &[ACCEPTING])?;
        let channel = descriptor::register(self.channel)?;
        if let (Said::End(state), _) = channel.async_io(Interest::READABLE, hear).await? {
            meanwhile(state);
        }
        // It says nothing more: this is its end.
        descriptor::news(&channel).await;
        Ok(())
    }
}

/// The next message, and the socket that comes with it.
fn hear(from: &OwnedFd) -> io::Result<(Said, Option<OwnedFd>)> {
    let mut text = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let length = recvmsg(from, &mut [IoSliceMut::new(&mut text)], &mut along, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let socket = along.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(text.get(..length).unwrap_or_default())?, socket))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::listener::Purpose;

    #[test]
    fn who_was_ended_before_it_could_say_a_word_is_started_again() {
        let ended = |status| TakeOverError::Ended { process: 1, status: ExitStatus::from_raw(status) }.is_accident();
        let [hup, kill, term, refused] = [1, 9, 15, 1 << 8];
        assert_eq!([hup, kill, term, refused].map(ended), [true, false, false, false]);
        let hand = |kind: ErrorKind| TakeOverError::Hand { process: 1, source: kind.into() }.is_accident();
        assert_eq!([ErrorKind::BrokenPipe, ErrorKind::TimedOut].map(hand), [true, false]);
    }

    #[test]
    fn sockets_arrive_with_their_labels_and_with_what_waits_in_them() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
        let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = socket.local_addr().expect("bound");
        let label = Label {
            purpose: Purpose::Admin,
            configured: "127.0.0.1:0".to_owned(),
            bound: address.to_string(),
            file: None,
        };
        let mut client = std::net::TcpStream::connect(address).expect("waits");
        let drained = State { drained: true, ..State::default() };
        hand(&ours, &[(label.clone(), socket.into())], drained).expect("takes it");
        let (Said::Socket(came), Some(socket)) = hear(&theirs).expect("comes") else { panic!("no socket") };
        assert_eq!(came, label);
        let (Said::End(state), None) = hear(&theirs).expect("comes") else { panic!("no end") };
        assert!(state.drained);
        let (mut accepted, _) = TcpListener::from(socket).accept().expect("it waited");
        io::Write::write_all(&mut client, b"x").expect("it is whole");
        io::Read::read_exact(&mut accepted, &mut [0]).expect("arrives");
        drop(ours);
        assert_eq!(hear(&theirs).expect_err("over").kind(), io::ErrorKind::UnexpectedEof);
    }
}
