//! What a worker says, and that it has died.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::entries::{Entry, LastRule, Record, listener_key, vm_key};
use super::worker::Stage;
use super::{FIRST_PAUSE, Supervisor, ToSupervisor, ToWorker};
use crate::death::{HandshakePoint, die_at};
use crate::listener::accept;

impl Supervisor {
    /// Hears what the worker has to say, or of its end. Gives the exit code if that is the end.
    pub(super) fn hear_worker(&mut self) -> Option<u8> {
        // What it said before it died is heard before its death.
        let heard = match &self.worker {
            Some(worker) if is_readable(worker.channel.as_fd()) => worker.channel.receive(),
            Some(worker) if is_readable(worker.pidfd.as_fd()) => Ok(None),
            _ => return None,
        };
        match heard {
            Ok(Some((message, fds))) => {
                self.take(message, fds);
                return None;
            }
            Ok(None) => {}
            Err(error) => self.say(&format!("the worker's words make no sense: {error}")),
        }
        let worker = self.worker.take()?;
        let (pid, stage, is_over) = (worker.pid(), worker.stage, worker.is_over);
        worker.signal(Signal::KILL);
        let (how, code) = worker.reap();
        if is_over || (!self.has_served && self.entries.is_empty()) {
            return Some(code);
        }
        self.say(&format!("worker {pid} DIED ({how})"));
        self.unserved.get_or_insert_with(Instant::now);
        if let Some(previous) = self.previous.take().filter(|_| stage != Stage::Serving) {
            self.say(&format!("going back to {}", previous.display()));
            self.config.binary = previous;
            self.tell_standby_state();
        }
        if stage == Stage::Serving {
            self.pause = FIRST_PAUSE;
            self.start_at = Instant::now();
        } else {
            self.back_off();
        }
        if self.drain_until.is_some() {
            // It died instead of draining; its successor is there.
            self.replace();
        }
        None
    }

    pub(super) fn take(&mut self, message: ToSupervisor, fds: Vec<OwnedFd>) {
        let Some(worker) = &mut self.worker else {
            return;
        };
        worker.heard = Instant::now();
        match message {
            ToSupervisor::Alive => {}
            ToSupervisor::Hello { .. } => self.restore(),
            ToSupervisor::Ready => {
                worker.stage = Stage::Serving;
                let (pid, took) = (worker.pid(), worker.started.elapsed());
                if let Some(signal) = self.owed {
                    worker.signal(signal);
                }
                let is_adopted = worker.is_adopted();
                let since = self.unserved.take();
                let vms = self.entries.vms().count();
                let mut line = match is_adopted {
                    true => format!("worker {pid} serves {vms} VMs, as before"),
                    false => format!("worker {pid} serves {vms} VMs, {took:.1?} after its start"),
                };
                if let Some(since) = since {
                    line += &format!("; nobody had served for {:.1?}", since.elapsed());
                }
                self.say(&line);
                self.has_served = true;
                match self.previous.take() {
                    // Who would take this one's place is to be of the new program, too.
                    Some(_) => self.renew_standby(),
                    None => self.tell_standby_state(),
                }
                if let Some(notify) = &self.notify
                    && let Err(error) = notify.ready()
                {
                    self.say(&format!("systemd cannot be told: {error}"));
                }
            }
            ToSupervisor::Keep { record } => self.keep(Entry { record, fds }),
            ToSupervisor::Accept {
                socket,
                store,
                id,
                rule,
            } => self.accept(socket, store, id, rule),
            ToSupervisor::Forget { key } => {
                self.entries.remove(&key);
                self.tell_standby_to_forget(&key);
                if let Some(notify) = &mut self.notify {
                    notify.forget(&key);
                }
            }
            ToSupervisor::Upgrade { binary } => self.upgrade(binary),
            ToSupervisor::Drained => self.replace(),
            ToSupervisor::Over => {
                worker.is_over = true;
                self.dismiss_standby();
            }
        }
    }

    pub(super) fn keep(&mut self, entry: Entry) {
        let key = entry.record.key();
        if entry.fds.is_empty() {
            self.say(&format!("{key} is NOT KEPT: no room for its descriptors"));
            return self.tell(&ToWorker::NotKept { key });
        }
        self.hold(entry);
        self.tell(&ToWorker::Kept { key });
    }

    fn hold(&mut self, entry: Entry) {
        let key = entry.record.key();
        if let Some(notify) = &mut self.notify
            && let Err(error) = notify.store(&key, &entry)
        {
            self.say(&format!("systemd does not keep {key}: {error}"));
        }
        self.tell_standby_to_keep(&entry);
        self.entries.insert(key, entry);
    }

    /// Accepts who waits at `socket`. A worker that did so would be the only one who has the connection
    /// for a moment, and a VMM whose connection died with it would wait for ever.
    fn accept(&mut self, socket: PathBuf, store: String, id: u64, rule: LastRule) {
        let key = vm_key(id);
        // Asked for again, it is there.
        if self.entries.get(&key).is_none() {
            match self.accept_at(&socket, &store) {
                Ok(Some(stream)) => {
                    let record = Record::Connection {
                        socket,
                        store,
                        id,
                        rule,
                    };
                    let fds = vec![stream.into()];
                    self.hold(Entry { record, fds });
                    die_at(&HandshakePoint::Held);
                }
                Ok(None) => {}
                Err(reason) => {
                    let at = socket.display();
                    self.say(&format!("cannot accept who connects at {at}: {reason}"));
                    return self.tell(&ToWorker::NotAccepted { id });
                }
            }
        }
        let entry = self.entries.get(&key);
        let connection = entry.filter(|entry| matches!(entry.record, Record::Connection { .. }));
        match (connection, &self.worker) {
            (Some(entry), Some(worker)) => {
                // It asks again if it does not get it, or is dead, and the next one is given it.
                let _ = worker
                    .channel
                    .send(&ToWorker::Accepted { id }, &entry.borrowed());
            }
            _ => self.tell(&ToWorker::Nobody { id }),
        }
    }

    fn accept_at(&self, socket: &Path, store: &str) -> Result<Option<UnixStream>, String> {
        let entry = self.entries.get(&listener_key(socket));
        let entry = entry.filter(
            |entry| matches!(&entry.record, Record::Listener { store: kept, .. } if kept == store),
        );
        match entry.and_then(|entry| entry.fds.first()) {
            Some(listener) => accept(listener.as_fd()).map_err(|error| error.to_string()),
            None => Err("its socket is not kept".to_owned()),
        }
    }

    /// Gives the worker everything that is kept.
    pub(super) fn restore(&mut self) {
        // From here on somebody else ends faults.
        self.last_resort = None;
        let Some(worker) = &mut self.worker else {
            return;
        };
        worker.stage = Stage::Restoring;
        let given = self.entries.iter().try_for_each(|(_, entry)| {
            let record = entry.record.clone();
            let message = ToWorker::Restore { record };
            worker.channel.send(&message, &entry.borrowed())
        });
        let given = given.and_then(|()| worker.channel.send(&ToWorker::Serve, &[]));
        if let Err(error) = given {
            let pid = worker.pid();
            worker.signal(Signal::KILL);
            self.say(&format!("worker {pid} took nothing over: {error}"));
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().is_empty()
}
