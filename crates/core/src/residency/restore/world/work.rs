//! What a living worker does, in its smallest steps.

use super::*;

impl World {
    pub(super) fn read(&mut self) -> Result<(), String> {
        match self.worker.reading.take() {
            None => {
                if self.worker.gate_is_shared() {
                    return Ok(());
                }
                let mut faults = Vec::new();
                for (n, page) in self.pages.iter_mut().enumerate() {
                    if core::mem::take(&mut page.queued) {
                        faults.push(n as u32);
                    }
                }
                self.worker.batch = self.unread_removals.drain(..).collect();
                self.zaps.extend(&self.worker.batch);
                match self.mistake {
                    Some(Mistake::ReadUnrecorded | Mistake::ClearedTooSoon) => {}
                    _ => self.journal.clone_from(&self.worker.batch),
                }
                self.worker.reading = Some(Reading::Read { faults });
            }
            Some(Reading::Read { faults }) => {
                for (first, end) in self.worker.batch.clone() {
                    self.note_removal(first, end);
                }
                self.worker.reading = Some(Reading::Noted { faults });
            }
            Some(Reading::Noted { faults }) => {
                let machine = &mut self.worker.machine;
                for (first, end) in core::mem::take(&mut self.worker.batch) {
                    machine.handle_removed(id(first), end - first).unwrap();
                }
                for n in faults {
                    if machine.handle_demand(id(n)) == Ok(Admission::Full) {
                        self.worker.backlog.push_back(n);
                    }
                }
                self.worker.reading = Some(Reading::Told);
            }
            Some(Reading::Told) => self.journal.clear(),
        }
        Ok(())
    }

    pub(super) fn note_removal(&mut self, first: u32, end: u32) {
        self.change(first as usize..end as usize, PageRecord::removed);
    }

    pub(super) fn will_answer(&self, n: usize) -> bool {
        let (_, first, count) = self.worker.fetches[n];
        self.pages[first as usize..(first + count) as usize]
            .iter()
            .all(|page| page.source != Source::Stalled)
    }

    pub(super) fn fetched(&mut self, n: usize) {
        if !self.will_answer(n) {
            return;
        }
        let (generation, first, count) = self.worker.fetches.remove(n);
        let mut pages = self.pages[first as usize..(first + count) as usize].iter();
        let result = match pages.any(|page| page.source == Source::Permanent) {
            false => Ok(()),
            true => Err(Fault {
                cause: CAUSE,
                persistence: Persistence::Permanent,
            }),
        };
        self.worker.machine.handle_fetched(generation, result);
    }

    /// One thing that the worker has to do goes one step further.
    pub(super) fn go_on(&mut self, at: usize) -> Result<(), String> {
        let Work {
            effect,
            offset,
            stage,
        } = self.worker.work[at];
        let (generation, first, count) = match effect {
            Effect::Install {
                generation,
                first,
                count,
            } => (generation, first, count),
            Effect::Zero { generation, page } => (generation, page, 1),
            Effect::Mark { generation, page } => (generation, page, 1),
            Effect::Unmark { generation, page } => (generation, page, 1),
            Effect::Fetch(_) | Effect::Settled { .. } => unreachable!("not kept as work"),
        };
        let (first, count) = (first.checked_add(offset).unwrap(), count - offset);
        let from = nth(first);
        let next = match stage {
            Stage::Decided if self.worker.reading.is_some() => stage,
            Stage::Decided => {
                let allowed = self.worker.machine.may_apply(generation, first, count);
                let wanted = from..from + allowed as usize;
                match effect {
                    Effect::Install { .. } => {
                        self.change(wanted.clone(), PageRecord::intended);
                        if self.mistake == Some(Mistake::PresentTooSoon) {
                            self.change(wanted, PageRecord::settled);
                        }
                    }
                    Effect::Mark { .. } => {
                        self.change(wanted, PageRecord::failed);
                    }
                    _ => {}
                }
                Stage::InGate { allowed, done: 0 }
            }
            // While a removal waits to be read, nothing can be installed.
            Stage::InGate { allowed, done }
                if !self.unread_removals.is_empty() && allowed > done =>
            {
                let rest = from + done as usize..from + allowed as usize;
                self.change(rest, PageRecord::given_up);
                let done = from..from + done as usize;
                self.change(done, PageRecord::settled);
                Stage::Decided
            }
            Stage::InGate { allowed, done } if done < allowed => {
                let already = self.carry_out(effect, from + done as usize)?;
                match done + 1 < allowed {
                    true => Stage::InGate {
                        allowed,
                        done: done + 1,
                    },
                    false => Stage::Done { allowed, already },
                }
            }
            Stage::InGate { allowed, .. } => Stage::Done {
                allowed,
                already: false,
            },
            Stage::Done { allowed, already } => {
                self.record_done(effect, from, allowed);
                Stage::Recorded { allowed, already }
            }
            Stage::Recorded { allowed, already } => {
                // The next page may be wanted where this one is not.
                if allowed.max(1) < count {
                    self.worker.work[at].offset += allowed.max(1);
                    Stage::Decided
                } else {
                    self.worker.work.remove(at);
                    return self.acknowledge(effect, already);
                }
            }
        };
        self.worker.work[at].stage = next;
        Ok(())
    }

    fn record_done(&mut self, effect: Effect, from: usize, count: u32) {
        if let Effect::Install { .. } = effect {
            self.change(from..from + count as usize, PageRecord::settled);
        }
    }

    fn change(&mut self, pages: core::ops::Range<usize>, to: fn(PageRecord) -> PageRecord) {
        for record in &mut self.records[pages] {
            *record = to(*record);
        }
    }

    /// One page of an effect, by the kernel. Says whether the page was there already.
    fn carry_out(&mut self, effect: Effect, n: usize) -> Result<bool, String> {
        let page = &mut self.pages[n];
        let there = matches!(page.held, Held::Data | Held::Zeros);
        let mut already = false;
        match effect {
            Effect::Install { .. } if there => {}
            Effect::Install { .. } if page.given_up => {
                return Err(format!("old data is installed in page {n}"));
            }
            Effect::Install { .. } => page.held = Held::Data,
            Effect::Zero { .. } if page.held == Held::Nothing => page.held = Held::Zeros,
            Effect::Zero { .. } => {}
            Effect::Mark { .. } if there => already = true,
            Effect::Mark { .. } => page.held = Held::Marker,
            Effect::Unmark { .. } if page.held == Held::Marker => page.held = Held::Nothing,
            Effect::Unmark { .. } => {}
            Effect::Fetch(_) | Effect::Settled { .. } => unreachable!("not carried out"),
        }
        self.wake(n as u32)?;
        Ok(already)
    }

    fn acknowledge(&mut self, effect: Effect, already: bool) -> Result<(), String> {
        let machine = &mut self.worker.machine;
        match effect {
            Effect::Install {
                generation,
                first,
                count,
            } => machine.handle_installed(generation, first, count, InstallResult::Done),
            Effect::Zero { generation, page } => {
                machine.handle_zeroed(generation, page, Ok(()));
                // A removal that was read may have taken the zeros away since, and a fault that was
                // read since has joined what was answered just now.
                if self.mistake != Some(Mistake::ZeroWokenOnce) {
                    self.wake(nth(page) as u32)?;
                }
            }
            Effect::Mark { generation, page } => {
                let marked = match already {
                    true => Marked::AlreadyPresent,
                    false => Marked::Marked,
                };
                machine.handle_marked(generation, page, marked);
            }
            Effect::Unmark { generation, page } => machine.handle_unmarked(generation, page),
            Effect::Fetch(_) | Effect::Settled { .. } => unreachable!("needs no answer"),
        }
        Ok(())
    }
}
