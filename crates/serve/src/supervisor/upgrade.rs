//! One worker takes another's place, on purpose.
//!
//! The new one has to show that it can begin before the old one lets go, and that it can serve before
//! its program becomes the one that workers are started from.

use std::path::PathBuf;
use std::time::Instant;

use super::worker::Worker;
use super::{DRAIN, Supervisor, ToSupervisor, ToWorker};

impl Supervisor {
    pub(super) fn upgrade(&mut self, binary: Option<PathBuf>) {
        let binary = binary.unwrap_or_else(|| self.config.binary.clone());
        if self.candidate.is_some() {
            let reason = "an upgrade is under way".to_owned();
            return self.tell(&ToWorker::NotUpgraded { reason });
        }
        match Worker::start(&binary, &self.config.arguments) {
            Ok(worker) => self.candidate = Some((worker, binary)),
            Err(error) => {
                let reason = format!("cannot start {}: {error}", binary.display());
                self.say(&format!("not upgraded: {reason}"));
                self.tell(&ToWorker::NotUpgraded { reason });
            }
        }
    }

    pub(super) fn hear_candidate(&mut self) {
        let Some((worker, binary)) = &mut self.candidate else {
            return;
        };
        match worker.channel.receive() {
            Ok(Some((ToSupervisor::Hello { version, .. }, _))) => {
                worker.heard = Instant::now();
                let line = format!("{} (version {version}) begins", binary.display());
                self.say(&line);
                self.drain_until = Some(Instant::now() + DRAIN);
                self.tell(&ToWorker::Drain);
                if self.worker.is_none() {
                    self.replace();
                }
            }
            Ok(Some(_)) => worker.heard = Instant::now(),
            Ok(None) => self.drop_candidate("it ended at once"),
            Err(error) => self.drop_candidate(&error.to_string()),
        }
    }

    pub(super) fn drop_candidate(&mut self, why: &str) {
        let Some((worker, binary)) = self.candidate.take() else {
            return;
        };
        worker.end();
        self.drain_until = None;
        let reason = format!("{} does not come up: {why}", binary.display());
        self.say(&format!("not upgraded: {reason}"));
        self.tell(&ToWorker::NotUpgraded { reason });
    }

    /// The candidate takes the worker's place. A worker may be killed at any point; draining was for
    /// what it had not yet given to be kept.
    pub(super) fn replace(&mut self) {
        self.drain_until = None;
        let Some((mut worker, binary)) = self.candidate.take() else {
            return;
        };
        worker.heard = Instant::now();
        self.unserved.get_or_insert_with(Instant::now);
        if let Some(old) = self.worker.replace(worker) {
            old.end();
        }
        self.previous = Some(core::mem::replace(&mut self.config.binary, binary));
        self.tell_standby_state();
        self.tell_standby_worker();
        self.restore();
    }
}
