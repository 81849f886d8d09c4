//! The threads that run a VM's vCPUs, one each.
//!
//! ```text
//!            resume
//!  running ◄──────── stopped ── stop ──► ended
//!     │                 ▲
//!     └── exit, error ──┘   (a kick makes it an exit)
//! ```

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use surefault_core::VcpuId;
use thiserror::Error;

use crate::signals::Kicker;
use crate::vcpu::{Exit, Vcpu, VcpuError};

/// How long a vCPU that was kicked is given before it is kicked again: it may have been where no
/// signal reaches it.
const KICK_AGAIN: Duration = Duration::from_millis(20);

/// The end of one stretch of a vCPU.
pub(crate) type Ended = Result<Exit, VcpuError>;

/// The threads of a VM's vCPUs.
pub(crate) struct Crew {
    members: Vec<Member>,
    ended: Receiver<(usize, Ended)>,
}

struct Member {
    id: VcpuId,
    kicker: Arc<Kicker>,
    /// Dropped to have the thread end.
    resume: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    running: bool,
}

/// A vCPU that does not come back.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "vCPU {vcpu} did not stop within {patience:?}: its thread is left behind, inside the kernel"
)]
pub struct StuckVcpu {
    vcpu: VcpuId,
    patience: Duration,
}

impl Crew {
    /// Starts a thread for each vCPU, and the vCPUs with them.
    pub(crate) fn start(vcpus: Vec<Vcpu>) -> io::Result<Crew> {
        let (send_ended, ended) = mpsc::channel();
        let mut crew = Crew {
            members: Vec::with_capacity(vcpus.len()),
            ended,
        };
        for (n, mut vcpu) in vcpus.into_iter().enumerate() {
            let (resume, resumed) = mpsc::channel();
            let (id, kicker) = (vcpu.id(), vcpu.kicker());
            let send_ended = send_ended.clone();
            let body = move || {
                while send_ended.send((n, vcpu.run())).is_ok() && resumed.recv().is_ok() {}
            };
            // Should this fail, dropping the crew ends the threads before it.
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{id}"))
                .spawn(body)?;
            crew.members.push(Member {
                id,
                kicker,
                resume: Some(resume),
                thread: Some(thread),
                running: true,
            });
        }
        Ok(crew)
    }

    /// The next vCPU that stops, if one does within `timeout`.
    pub(crate) fn next(&mut self, timeout: Duration) -> Option<(VcpuId, Ended)> {
        let (n, ended) = self.ended.recv_timeout(timeout).ok()?;
        let member = &mut self.members[n];
        member.running = false;
        Some((member.id, ended))
    }

    /// Has a vCPU that stopped go on.
    pub(crate) fn resume(&mut self, vcpu: VcpuId) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == vcpu)
            && let Some(resume) = &member.resume
        {
            member.running = resume.send(()).is_ok();
        }
    }

    /// Brings all vCPUs out of the guest: how each that was in it came out. They can be resumed.
    ///
    /// # Errors
    /// When a vCPU has not stopped after `patience`.
    pub(crate) fn pause(&mut self, patience: Duration) -> Result<Vec<(VcpuId, Ended)>, StuckVcpu> {
        let deadline = Instant::now() + patience;
        let mut stopped = Vec::new();
        while let Some(member) = self.members.iter().find(|member| member.running) {
            if Instant::now() >= deadline {
                return Err(StuckVcpu {
                    vcpu: member.id,
                    patience,
                });
            }
            for member in self.members.iter().filter(|member| member.running) {
                member.kicker.kick();
            }
            stopped.extend(self.next(KICK_AGAIN));
        }
        Ok(stopped)
    }

    /// Stops all vCPUs, and ends their threads.
    ///
    /// # Errors
    /// When a vCPU has not stopped after `patience`.
    pub(crate) fn stop(&mut self, patience: Duration) -> Result<(), StuckVcpu> {
        for member in &mut self.members {
            member.resume = None;
        }
        self.pause(patience)?;
        for thread in self.members.iter_mut().filter_map(|m| m.thread.take()) {
            // A panic in it has been told by the panic hook.
            let _ = thread.join();
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if self.members.iter().any(|member| member.thread.is_some()) {
            // Whoever wanted to know has called `stop`.
            let _ = self.stop(Duration::from_secs(1));
        }
    }
}
