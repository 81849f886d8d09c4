//! One VM's life, in a thread of its own: handshake, service, end.
//!
//! ```text
//!  connected ──► identified ──► handshake ──► attached ──► served ──► ended: summary
//!      │              │             │             │           │
//!      └─ not allowed ┴─ refused ───┴─────────────┘           └─ process gone (pidfd), its memory
//!                        (killed, if its memory came)            gone, hung up without a pidfd,
//!                                                                or the daemon must end
//! ```

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use surefault_pager::{Pager, Records, ServedRegion};
use surefault_uffd::Userfaultfd;

use crate::accept::Shaking;
use crate::daemon::Shared;
use crate::death::{HandshakePoint, die_at};
use crate::event::{Event, VmId};
use crate::handshake::{
    Handshake, PAUSE_FOR_ROOM, ReceiveError, Rejected, look, receive, take_out,
};
use crate::peer::Peer;
use crate::source::{Later, Source};
use crate::vm::{Vm, VmAttendant, VmRecord};
use crate::wakeup::{Wakeup, timespec};

/// A process is given this long from closing its connection to its end, before that is remarked on.
const GRACE: Duration = Duration::from_secs(2);

/// Serves whoever connected `stream` at `socket`, for life.
pub(crate) fn keep(
    shared: &Arc<Shared>,
    socket: &Path,
    source: Arc<dyn Source>,
    stream: &UnixStream,
    id: VmId,
    shaking: Shaking,
) {
    let is_served = shake_hands(shared, socket, source, stream, id, shaking);
    if let Some(vm) = is_served {
        watch(shared, &vm, stream);
        shared.ended(&vm);
    } else {
        shared.forget_vm(id);
    }
}

fn shake_hands(
    shared: &Arc<Shared>,
    socket: &Path,
    source: Arc<dyn Source>,
    stream: &UnixStream,
    id: VmId,
    shaking: Shaking,
) -> Option<Arc<Vm>> {
    let limits = &shared.config.handshake;
    let until = Instant::now() + limits.time;
    let peer = loop {
        match Peer::of(stream) {
            Ok(peer) => break peer,
            Err(error) if error.is_no_room() && Instant::now() < until => {
                std::thread::sleep(PAUSE_FOR_ROOM);
            }
            Err(error) => {
                shared.turn_away(socket, stream, None, false, &chain(&error));
                return None;
            }
        }
    };
    if !shared.allows(peer.uid()) {
        let reason = format!("user {} is not allowed", peer.uid());
        shared.refused(socket, Some(peer.pid()), &reason, false);
        return None;
    }
    // With a supervisor it is left there until the VM is kept, so that a successor finds it.
    let received = match shared.handover {
        Some(_) => look(stream, limits),
        None => receive(stream, limits).map(|handshake| (handshake, 0)),
    };
    let (handshake, left) = match received {
        Ok(received) => received,
        Err(Rejected { error, uffd }) => {
            // What was lost may have been its userfaultfd.
            let came = uffd.is_some() || matches!(error, ReceiveError::DescriptorsLost);
            shared.turn_away(socket, stream, Some(&peer), came, &chain(&error));
            return None;
        }
    };
    let pid = peer.pid();
    let vm = attach(shared, socket, source, peer, handshake, stream, id);
    die_at(&HandshakePoint::Served);
    take_out(stream, left);
    drop(shaking);
    match vm {
        Ok(vm) => Some(vm),
        Err((reason, peer)) => {
            let killed = peer.as_ref().is_some_and(|peer| peer.end().is_ok());
            shared.refused(socket, Some(pid), &reason, killed);
            None
        }
    }
}

/// Begins to serve a VM. On failure its process has been killed before its userfaultfd is closed, or
/// the peer is given back to be.
fn attach(
    shared: &Arc<Shared>,
    socket: &Path,
    source: Arc<dyn Source>,
    peer: Peer,
    handshake: Handshake,
    stream: &UnixStream,
    id: VmId,
) -> Result<Arc<Vm>, (String, Option<Peer>)> {
    let Handshake { uffd, regions } = handshake;
    let newcomer = Newcomer {
        id,
        socket: socket.to_owned(),
        peer,
        regions,
        started: Instant::now(),
        records: None,
    };
    let vm = newcomer.serve(shared, source, uffd, stream)?;
    shared.started(&vm);
    Ok(vm)
}

/// A VM that is about to be served.
pub(crate) struct Newcomer {
    pub(crate) id: VmId,
    pub(crate) socket: PathBuf,
    pub(crate) peer: Peer,
    pub(crate) regions: Vec<ServedRegion>,
    pub(crate) started: Instant,
    /// What another worker has left.
    pub(crate) records: Option<Records>,
}

impl Newcomer {
    /// Begins to serve it. On failure its process has been killed before its userfaultfd is closed, or
    /// the peer is given back to be.
    pub(crate) fn serve(
        self,
        shared: &Arc<Shared>,
        source: Arc<dyn Source>,
        uffd: Userfaultfd,
        stream: &UnixStream,
    ) -> Result<Arc<Vm>, (String, Option<Peer>)> {
        let Newcomer {
            id,
            socket,
            peer,
            regions,
            started,
            records,
        } = self;
        let prepared = (|| {
            let over = Arc::new(Wakeup::new()?);
            let events = Arc::clone(&shared.events);
            let rule = shared.config.pager.failed_page;
            let (wakes, handover) = (Arc::clone(&over), shared.handover.clone());
            let attendant = VmAttendant::new(id, &peer, &regions, rule, events, wakes, handover)?;
            let duplicate = uffd.as_fd().try_clone_to_owned()?;
            Ok::<_, std::io::Error>((over, Arc::new(attendant), duplicate))
        })();
        let (over, attendant, duplicate) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = peer.end();
                return Err((format!("no descriptors left: {error}"), Some(peer)));
            }
        };
        let record = VmRecord {
            id,
            socket,
            store: source.describe(),
            regions,
            uffd: duplicate,
            peer,
            started,
        };
        let records = match records {
            Some(records) => Some(records),
            None => shared.keep_vm(&record, stream),
        };
        let store = Arc::new(Later::new(source));
        let (regions, config) = (&record.regions, &shared.config.pager);
        let attends = Arc::clone(&attendant) as _;
        let pager = match records {
            None => Pager::attach(uffd, regions, store, config, attends),
            Some(records) => Pager::attach_recorded(uffd, regions, store, config, attends, records),
        };
        match pager {
            Ok(pager) => Ok(Arc::new(Vm::new(record, attendant, pager, over))),
            Err(error) => {
                shared.forget_vm(id);
                // The record keeps the userfaultfd open until here.
                let _ = record.peer.end();
                Err((chain(&error), Some(record.peer)))
            }
        }
    }
}

/// Waits for the VM's end.
pub(crate) fn watch(shared: &Shared, vm: &Vm, stream: &UnixStream) {
    let pidfd = vm.record.peer.pidfd();
    // Until then a process whose connection is closed may be on its way out.
    let mut grace: Option<Instant> = None;
    let mut hung_up = false;
    loop {
        let mut fds = vec![PollFd::new(&vm.over, PollFlags::IN)];
        if let Some(pidfd) = &pidfd {
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        if !hung_up {
            fds.push(PollFd::new(stream, PollFlags::RDHUP));
        }
        let timeout = grace.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        let polled = poll(&mut fds, timeout.as_ref());
        let happened = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
        if polled.is_err() {
            // A signal: look again.
            continue;
        }
        if happened(0) {
            vm.over.clear();
            if shared.must_end() && !vm.is_complete() {
                // It would go on with zeros.
                let _ = vm.record.peer.end();
            }
            return;
        }
        match &pidfd {
            Some(_) if happened(1) => return,
            Some(_) if happened(2) => {
                hung_up = true;
                grace = Some(Instant::now() + GRACE);
            }
            // Nothing else tells of its end.
            None if happened(1) => return,
            _ => {}
        }
        if grace.is_some_and(|until| Instant::now() >= until) {
            grace = None;
            let (id, pid) = (vm.record.id, vm.record.peer.pid());
            shared.events.tell(&Event::HungUp { vm: id, pid });
        }
    }
}

/// An error with its chain of causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error says what its source says.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
