//! A worker dies, and another goes on.

use super::*;

impl World {
    /// A new worker notes what its predecessor has read, and dies before it has cleared that.
    pub(super) fn attach_and_die(&mut self) {
        if self.mistake != Some(Mistake::NotReplayed) {
            for (first, end) in self.journal.clone() {
                self.note_removal(first, end);
            }
        }
    }

    /// The worker dies, and a new one goes on.
    pub(super) fn attach(&mut self) -> Result<(), String> {
        self.deaths_in_gate += u32::from(
            self.worker.gate_is_shared()
                || matches!(self.worker.reading, Some(Reading::Read { .. })),
        );
        self.attach_and_die();
        self.journal.clear();
        let mut intents = BTreeSet::new();
        let recorded: Vec<_> = (0..)
            .zip(&self.records)
            .map(|(n, record)| {
                let recorded = record.recorded();
                if record.is_in_doubt() {
                    intents.insert(n);
                }
                match (self.mistake, record) {
                    (Some(Mistake::IntentTrusted), PageRecord::Intent) => RecordedPage::Present,
                    (Some(Mistake::RemovalForgotten), PageRecord::Removed) => RecordedPage::Absent,
                    _ => recorded,
                }
            })
            .collect();
        let count = PageCount::new(self.pages.len() as u64);
        let machine = Residency::restored(self.config.clone(), &[count], recorded);
        self.worker = Worker::new(machine.map_err(|error| error.to_string())?);
        for &n in &intents {
            self.worker.machine.handle_prefetch(id(n), 1).unwrap();
        }
        if self.mistake != Some(Mistake::NotWoken) {
            for n in 0..self.pages.len() as u32 {
                self.wake(n)?;
            }
        }
        self.check_restored()
    }

    /// A page that was given up is known to be.
    fn check_restored(&self) -> Result<(), String> {
        for (n, page) in self.pages.iter().enumerate() {
            let state = self.worker.machine.state(id(n as u32)).unwrap();
            if page.given_up && matches!(state, PageState::Absent | PageState::Pending) {
                return Err(format!(
                    "page {n} was given up, and is {state:?} after a restart"
                ));
            }
        }
        Ok(())
    }
}
