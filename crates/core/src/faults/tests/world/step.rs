//! The arbitrary steps: what a guest, a driver and the world around them may do.

use super::*;

impl<P: Policy> World<P> {
    pub(super) fn step(&mut self, (what, a, b): Step) -> Result<(), Caught> {
        let v = usize::from(a) % self.vcpus.len();
        let id = VcpuId::new(v as u32);
        match what % STEPS {
            0..=3 => self.touch(v, b)?,
            4 => self.switch(v, usize::from(b)),
            5 | 6 if !self.works.is_empty() => {
                let at = usize::from(b) % self.works.len();
                self.finish_work(at)?;
            }
            7 | 8 => self.answer_announcement(v, !b.is_multiple_of(4))?,
            9 => self.answer_prefault(v, b)?,
            10 => self.settle(v)?,
            11 | 12 => self.enter(v)?,
            13 => self.ack(v)?,
            14 => {
                let taken = self.m.handle_interrupt(id);
                self.absorb(taken)?;
            }
            15 if self.vcpus[v].waiting.is_some() => {
                self.vcpus[v].waiting = None;
                let taken = self.m.handle_interrupted(id);
                self.absorb(taken)?;
            }
            16 => self.set_apf(v, !b.is_multiple_of(3))?,
            17 if b.is_multiple_of(4) => self.reset(v)?,
            18 => {
                let index = u32::from(b) % PAGES;
                if self.failing.insert(index) {
                    return Ok(());
                }
                self.heal(index)?;
            }
            19 => self.resume(v)?,
            20 => match b % 4 {
                0 => {
                    let taken = self.m.handle_timer(Timer::Unclaimed);
                    self.absorb(taken)?;
                    while self.m.poll_timer().is_some() {}
                }
                1 => {
                    self.removing = true;
                    let taken = self.m.handle_removed(page(1), PageCount::new(2));
                    self.absorb(taken)?;
                    self.removing = false;
                }
                2 => {
                    self.vcpus[v].lapic_off ^= true;
                    let taken = self.m.handle_lapic(id, !self.vcpus[v].lapic_off);
                    self.absorb(taken)?;
                }
                _ => {
                    let taken = self.m.handle_abnormal_pfn(id);
                    self.absorb(taken)?;
                }
            },
            21 => self.stale(v, b)?,
            22 => self.serve_in_the_guest(v)?,
            23 => self.note_over(v, b)?,
            24 => self.listen(v, b)?,
            _ => {}
        }
        Ok(())
    }

    /// Answers that nobody waits for change nothing.
    pub(super) fn stale(&mut self, v: usize, b: u8) -> Result<(), Caught> {
        let id = VcpuId::new(v as u32);
        let item = ItemId(b % 4);
        let before = self.m.clone();
        let vcpu = &self.vcpus[v];
        let working = self
            .works
            .iter()
            .any(|&(of, work, _)| (of, work) == (id, item));
        let announcing = vcpu.announcing.iter().any(|&(of, _)| of == item);
        let prefaulting = vcpu.prefaulting.iter().any(|&(of, _)| of == item);
        let taken = match b / 4 % 6 {
            0 if !working => self.m.handle_work_done(id, item, PageOutcome::Present),
            1 if !announcing => self.m.handle_announced(id, item, Announced::Injected),
            2 if !prefaulting => self.m.handle_prefaulted(id, item, Prefaulted::Fixed),
            3 if vcpu.waiting.is_none() => self.m.handle_settled(id, page(0), PageOutcome::Present),
            4 => self
                .m
                .handle_settled(VcpuId::new(99), page(0), PageOutcome::Present),
            5 if !vcpu.in_guest => self.m.handle_noted(id, page(0)),
            _ => Accepted::Stale,
        };
        ensure!(taken == Accepted::Stale, "an answer to nothing was taken");
        ensure!(self.m == before, "a stale input changed the state");
        Ok(())
    }

    /// The current task runs its next instruction.
    pub(super) fn touch(&mut self, v: usize, b: u8) -> Result<(), Caught> {
        let vcpu = &mut self.vcpus[v];
        if !vcpu.in_guest {
            return Ok(());
        }
        let task = &vcpu.tasks[vcpu.current];
        if task.waiting.is_some() {
            return Ok(());
        }
        let Some(index) = task.wants() else {
            return Ok(());
        };
        let noted = b % 13 == 3;
        let root = Root::new(task.root);
        let mut moment = moment(index, task.root);
        moment.kernel_mode = b.is_multiple_of(7);
        moment.interrupts_allowed = b % 11 != 1;
        if noted {
            // The fault shows in the host first. A second event says nothing new.
            let id = VcpuId::new(v as u32);
            for _ in 0..2 {
                let taken = self.m.handle_noted(id, page(index));
                ensure!(taken == Accepted::Taken, "a note was refused");
            }
            self.absorb(Accepted::Taken)?;
        }
        let vcpu = &mut self.vcpus[v];
        vcpu.access = Some((fault(index), root));
        vcpu.in_guest = false;
        let state = self.state(index);
        // A healthy page is there at some times and on its way at others.
        let state = match state {
            PageState::Pending if b.is_multiple_of(5) => PageState::Present,
            other => other,
        };
        if state == PageState::Present {
            self.access_mapped(v);
        }
        let id = VcpuId::new(v as u32);
        self.claiming = true;
        let taken = self.m.handle_fault(id, fault(index), &moment, state);
        ensure!(taken == Accepted::Taken, "a fault in the guest was refused");
        self.absorb(taken)
    }

    pub(super) fn access_mapped(&mut self, v: usize) {
        let vcpu = &mut self.vcpus[v];
        let task = &mut vcpu.tasks[vcpu.current];
        task.at += 1;
    }

    pub(super) fn switch(&mut self, v: usize, to: usize) {
        let vcpu = &mut self.vcpus[v];
        if vcpu.in_guest {
            vcpu.current = to % vcpu.tasks.len();
        }
    }

    pub(super) fn finish_work(&mut self, at: usize) -> Result<(), Caught> {
        let (id, item, page) = self.works.swap_remove(at);
        let v = id.get() as usize;
        let how = self.settled(page);
        if let Some(&(_, _, token)) = self.vcpus[v].items.get(&item) {
            self.vcpus[v].completed.push_back((item, token));
        }
        let taken = self.m.handle_work_done(id, item, how);
        ensure!(taken == Accepted::Taken, "a completion got lost");
        self.absorb(taken)
    }

    pub(super) fn answer_announcement(&mut self, v: usize, inject: bool) -> Result<(), Caught> {
        let id = VcpuId::new(v as u32);
        let Some((item, token)) = self.vcpus[v].announcing.pop_front() else {
            return Ok(());
        };
        let live = self.vcpus[v].items.contains_key(&item);
        if inject && live {
            let vcpu = &mut self.vcpus[v];
            vcpu.announced.insert(token);
            vcpu.tasks[vcpu.current].waiting = Some(token);
            if let Some(entry) = vcpu.items.get_mut(&item) {
                entry.2 = Some(token);
            }
        }
        let how = if inject {
            Announced::Injected
        } else {
            Announced::Refused
        };
        let taken = self.m.handle_announced(id, item, how);
        ensure!(
            taken == Accepted::Taken,
            "the answer to an announcement got lost"
        );
        self.absorb(taken)
    }

    pub(super) fn answer_prefault(&mut self, v: usize, b: u8) -> Result<(), Caught> {
        let Some((item, page)) = self.vcpus[v].prefaulting.pop_front() else {
            return Ok(());
        };
        let how = match self.state(page.index().get()) {
            PageState::Failed(failure) => Prefaulted::Error(failure),
            PageState::Present | PageState::Pending | PageState::Absent | PageState::Removed
                if b.is_multiple_of(5) =>
            {
                Prefaulted::Retry
            }
            PageState::Present | PageState::Pending | PageState::Absent | PageState::Removed => {
                Prefaulted::Fixed
            }
        };
        let taken = self.m.handle_prefaulted(VcpuId::new(v as u32), item, how);
        ensure!(
            taken == Accepted::Taken,
            "the answer to a prefault got lost"
        );
        self.absorb(taken)
    }

    pub(super) fn settle(&mut self, v: usize) -> Result<(), Caught> {
        let Some(page) = self.vcpus[v].waiting.take() else {
            return Ok(());
        };
        let how = self.settled(page);
        if how == PageOutcome::Present {
            self.access_mapped(v);
        }
        let reports = self.reports + self.tells;
        let taken = self.m.handle_settled(VcpuId::new(v as u32), page, how);
        ensure!(taken == Accepted::Taken, "the end of a wait got lost");
        self.absorb(taken)?;
        let told = self.reports + self.tells - reports;
        ensure!(
            told == usize::from(matches!(how, PageOutcome::Failed(_))),
            "a wait that ended as {how:?} made {told} reports"
        );
        Ok(())
    }

    /// Another thread serves a vCPU that runs the guest.
    pub(super) fn serve_in_the_guest(&mut self, v: usize) -> Result<(), Caught> {
        let vcpu = &mut self.vcpus[v];
        let in_guest = vcpu.in_guest;
        let root = Root::new(vcpu.tasks[vcpu.current].root);
        let id = VcpuId::new(v as u32);
        let noted = self.m.noted(id);
        let taken = self.m.handle_service(id, root);
        ensure!(
            (taken == Accepted::Taken) == in_guest,
            "served outside the guest, or not in it"
        );
        if in_guest {
            self.vcpus[v].kicked = false;
            ensure!(self.m.noted(id) == noted, "the note did not stay");
            self.absorb(taken)?;
            // The prefaults are answered at once: no thread of the vCPU's comes in between.
            while !self.vcpus[v].prefaulting.is_empty() {
                self.answer_prefault(v, 1)?;
            }
        }
        Ok(())
    }

    /// A thread was blocked for a moment: its page came before anybody took it out.
    pub(super) fn note_over(&mut self, v: usize, b: u8) -> Result<(), Caught> {
        let id = VcpuId::new(v as u32);
        if self.vcpus[v].in_guest {
            let index = u32::from(b) % PAGES;
            self.m.handle_noted(id, page(index));
            self.absorb(Accepted::Taken)?;
            let taken = self.m.handle_note_over(id, page(index));
            ensure!(taken == Accepted::Taken, "a note could not be ended");
            ensure!(self.m.noted(id).is_none(), "a note lives on");
            self.absorb(taken)?;
        }
        Ok(())
    }

    /// Says whether the guest can be told.
    pub(super) fn listen(&mut self, v: usize, b: u8) -> Result<(), Caught> {
        if self.vcpus[v].telling.is_none() {
            return Ok(());
        }
        let listening = Listening {
            kernel_mode: b.is_multiple_of(5),
            event_pending: b % 3 == 1,
            machine_checks: b % 7 != 2,
        };
        self.vcpus[v].listening = Some(listening);
        let taken = self.m.handle_listening(VcpuId::new(v as u32), listening);
        ensure!(taken == Accepted::Taken, "the answer of the guest got lost");
        self.absorb(taken)?;
        let vcpu = &self.vcpus[v];
        ensure!(
            vcpu.telling.is_none() && vcpu.listening.is_none(),
            "nothing came of asking the guest"
        );
        Ok(())
    }

    /// The vCPU's thread comes to the entry, where it was sent or kicked to.
    pub(super) fn enter(&mut self, v: usize) -> Result<(), Caught> {
        let vcpu = &mut self.vcpus[v];
        if !vcpu.resumed && !vcpu.kicked {
            return Ok(());
        }
        let root = Root::new(vcpu.tasks[vcpu.current].root);
        let id = VcpuId::new(v as u32);
        let before = self.m.vcpu_state(id);
        let taken = self.m.handle_entry(id, root);
        match before {
            Some(VcpuState::Guest | VcpuState::Entering | VcpuState::Halted) => {
                let vcpu = &mut self.vcpus[v];
                vcpu.kicked = false;
                if taken == Accepted::Taken {
                    vcpu.resumed = false;
                    vcpu.in_guest = false;
                }
            }
            // The kick stays on its way until the thread gets here.
            _ => ensure!(taken == Accepted::Stale, "entered out of {before:?}"),
        }
        self.absorb(taken)
    }

    /// The guest's handler of the ready interrupt.
    pub(super) fn ack(&mut self, v: usize) -> Result<(), Caught> {
        let vcpu = &mut self.vcpus[v];
        if !vcpu.in_guest {
            return Ok(());
        }
        let Some(token) = vcpu.slot.take() else {
            return Ok(());
        };
        for task in &mut vcpu.tasks {
            if token == WAKE_ALL || task.waiting == Some(token) {
                task.waiting = None;
            }
        }
        let taken = self.m.handle_ack(VcpuId::new(v as u32));
        self.absorb(taken)
    }

    pub(super) fn set_apf(&mut self, v: usize, on: bool) -> Result<(), Caught> {
        if !self.vcpus[v].in_guest {
            return Ok(());
        }
        self.ack(v)?;
        let settings = if on {
            GuestApf::On {
                send_always: false,
                error_word: false,
            }
        } else {
            GuestApf::Off
        };
        self.vcpus[v].settings_on = on;
        if !on {
            self.forget_items(v);
        }
        let taken = self.m.handle_guest_apf(VcpuId::new(v as u32), settings);
        ensure!(taken == Accepted::Taken, "the guest's setting was refused");
        self.absorb(taken)
    }

    pub(super) fn reset(&mut self, v: usize) -> Result<(), Caught> {
        self.forget_items(v);
        let vcpu = &mut self.vcpus[v];
        vcpu.slot = None;
        vcpu.settings_on = false;
        vcpu.lapic_off = false;
        vcpu.waiting = None;
        (vcpu.telling, vcpu.listening) = (None, None);
        vcpu.stopped = false;
        vcpu.in_guest = false;
        let taken = self.m.handle_reset(VcpuId::new(v as u32));
        self.absorb(taken)
    }

    /// Nothing is delivered any more, so the guest wakes its waiters itself.
    pub(super) fn forget_items(&mut self, v: usize) {
        let vcpu = &mut self.vcpus[v];
        vcpu.items.clear();
        vcpu.completed.clear();
        vcpu.announced.clear();
        for task in &mut vcpu.tasks {
            task.waiting = None;
        }
    }

    pub(super) fn heal(&mut self, index: u32) -> Result<(), Caught> {
        self.failing.remove(&index);
        let taken = self.m.handle_healed(page(index));
        self.absorb(taken)
    }

    pub(super) fn resume(&mut self, v: usize) -> Result<(), Caught> {
        if !std::mem::take(&mut self.vcpus[v].stopped) {
            return Ok(());
        }
        let taken = self.m.handle_resume(VcpuId::new(v as u32));
        ensure!(taken == Accepted::Taken, "the resume got lost");
        self.absorb(taken)
    }
}
