//! Every effect and every state held against what the world knows.

use super::*;

impl<P: Policy> World<P> {
    /// Takes all effects, and holds them and the state against what must be true.
    pub(super) fn absorb(&mut self, _: Accepted) -> Result<(), Caught> {
        while let Some(effect) = self.m.poll_effect() {
            self.take(effect)?;
        }
        let owed = self.m.owed();
        // Noted and claimed errors change the count by other inputs than those that end them.
        if owed < self.owed_before {
            let gone = self.owed_before - owed;
            let claimed = usize::from(self.claiming);
            ensure!(
                self.unclaimed + claimed >= gone,
                "{gone} errors went without a word"
            );
        }
        self.owed_before = owed;
        self.unclaimed = 0;
        self.claiming = false;
        self.m
            .check_invariants()
            .map_err(|violation| violation.to_string())
    }

    pub(super) fn take(&mut self, effect: Effect) -> Result<(), Caught> {
        match effect {
            Effect::NotPresent { vcpu, item, token } => {
                let v = self.index(vcpu)?;
                let Some((fault, root)) = self.vcpus[v].access else {
                    return Err("not present without an access".into());
                };
                ensure!(
                    self.vcpus[v].settings_on,
                    "told a guest that is told nothing"
                );
                let known = self
                    .works
                    .iter()
                    .any(|&(of, work, _)| (of, work) == (vcpu, item));
                ensure!(!known, "work before the announcement");
                self.vcpus[v].announcing.push_back((item, token));
                self.vcpus[v].items.insert(item, (fault, root, None));
            }
            Effect::Work { vcpu, item, page } => {
                let v = self.index(vcpu)?;
                let announcing = &self.vcpus[v].announcing;
                ensure!(
                    announcing.iter().all(|&(of, _)| of != item) && self.vcpus[v].access.is_some(),
                    "work before the announcement"
                );
                let known = self
                    .works
                    .iter()
                    .any(|&(of, work, _)| (of, work) == (vcpu, item));
                ensure!(
                    !known,
                    "a place was used again while an answer was outstanding"
                );
                let (fault, root) = self.vcpus[v].access.expect("checked");
                let entry = self.vcpus[v]
                    .items
                    .entry(item)
                    .or_insert((fault, root, None));
                if entry.2.is_none() {
                    *entry = (fault, root, None);
                }
                self.works.push((vcpu, item, page));
            }
            Effect::CancelWork { vcpu, item } => {
                let known = self
                    .works
                    .iter()
                    .any(|&(of, work, _)| (of, work) == (vcpu, item));
                ensure!(known, "cancelled work that was not started");
            }
            Effect::Wait { vcpu, page } => {
                let v = self.index(vcpu)?;
                let access = self.vcpus[v].access.map(|(fault, _)| fault.page);
                ensure!(
                    access == Some(page),
                    "waits for a page that was not touched"
                );
                self.vcpus[v].waiting = Some(page);
            }
            Effect::Halt { vcpu } => {
                let v = self.index(vcpu)?;
                self.vcpus[v].access = None;
            }
            Effect::Kick { vcpu } => {
                let v = self.index(vcpu)?;
                ensure!(!self.vcpus[v].kicked, "kicked twice");
                self.vcpus[v].kicked = true;
            }
            Effect::Prefault {
                vcpu, item, page, ..
            } => {
                let v = self.index(vcpu)?;
                let Some(&(fault, root, _)) = self.vcpus[v].items.get(&item) else {
                    return Err("prefaults for an item that is gone".into());
                };
                ensure!(fault.page == page, "prefaults another page");
                let current = self.vcpus[v].tasks[self.vcpus[v].current].root;
                let here = root == Root::new(current);
                ensure!(
                    here || self.m.config().paging == Paging::TwoDimensional,
                    "prefaults into another address space"
                );
                self.vcpus[v].prefaulting.push_back((item, page));
            }
            Effect::Ready { vcpu, token, error } => {
                let v = self.index(vcpu)?;
                let vcpu = &mut self.vcpus[v];
                ensure!(vcpu.settings_on, "ready for a guest that is told nothing");
                ensure!(vcpu.slot.is_none(), "a second ready before the ack");
                ensure!(!error, "an error word for a guest that cannot read it");
                vcpu.slot = Some(token);
                if token != WAKE_ALL {
                    ensure!(
                        vcpu.announced.remove(&token),
                        "ready for a token not outstanding"
                    );
                    // What was not announced is served in silence, in its turn.
                    while let Some((item, of)) = vcpu.completed.pop_front() {
                        if of == Some(token) {
                            vcpu.items.remove(&item);
                            break;
                        }
                        ensure!(of.is_none(), "ready out of the order of completion");
                    }
                }
            }
            Effect::Resume { vcpu } => {
                let v = self.index(vcpu)?;
                if let Some(fault) = self.vcpus[v].telling.take() {
                    let forgotten = match self.vcpus[v].listening.take() {
                        Some(listening) => !listening.event_pending,
                        None => self.failing.contains(&fault.page.index().get()) && !self.removing,
                    };
                    ensure!(!forgotten, "a failure was forgotten");
                }
                self.vcpus[v].resumed = true;
                self.vcpus[v].access = None;
            }
            Effect::Enter { vcpu } => {
                let v = self.index(vcpu)?;
                self.vcpus[v].in_guest = true;
            }
            Effect::Report { vcpu, fault, .. } => {
                let v = self.index(vcpu)?;
                let access = self.vcpus[v].access.map(|(access, _)| access);
                ensure!(
                    access == Some(fault) || self.exits_early,
                    "report for a vCPU that did not fault there"
                );
                ensure!(
                    self.failing.contains(&fault.page.index().get()) || self.exits_early,
                    "a healthy page reported"
                );
                (self.vcpus[v].telling, self.vcpus[v].listening) = (None, None);
                self.vcpus[v].stopped = true;
                self.vcpus[v].in_guest = false;
                self.reports += 1;
            }
            Effect::Tell { vcpu, fault, .. } => {
                let v = self.index(vcpu)?;
                let access = self.vcpus[v].access.map(|(access, _)| access);
                ensure!(access == Some(fault), "tells of what was not touched");
                ensure!(
                    self.failing.contains(&fault.page.index().get()),
                    "tells of a healthy page"
                );
                ensure!(self.m.config().errors_to_guest, "tells without being asked");
                self.vcpus[v].telling = Some(fault);
                self.tells += 1;
            }
            Effect::MachineCheck { vcpu, fault, .. } => {
                let v = self.index(vcpu)?;
                let vcpu = &mut self.vcpus[v];
                ensure!(vcpu.telling.take() == Some(fault), "tells something else");
                let listening = vcpu.listening.take();
                let hears = listening.is_some_and(|listening| {
                    !listening.kernel_mode && !listening.event_pending && listening.machine_checks
                });
                ensure!(hears, "tells a guest that does not listen");
                // The guest kills the task.
                let task = &mut vcpu.tasks[vcpu.current];
                task.at = task.accesses.len();
                vcpu.access = None;
                vcpu.resumed = true;
                self.machine_checks += 1;
            }
            Effect::Interrupt { vcpu } => {
                let v = self.index(vcpu)?;
                ensure!(self.m.noted(vcpu).is_some(), "interrupted without a note");
                ensure!(self.vcpus[v].in_guest, "interrupted outside the guest");
            }
            Effect::Unclaimed { .. } => self.unclaimed += 1,
            Effect::Confirm { .. } | Effect::Retry { .. } => {
                return Err("nothing was observed".into());
            }
        }
        Ok(())
    }
}
