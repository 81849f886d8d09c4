//! Two more laws: of watching, and of views.

use super::*;

impl<P: Policy> World<P> {
    /// What a watching vCPU loop sees, on a machine of its own.
    pub(in super::super) fn watch(config: FaultsConfig, steps: &[Step]) -> Result<(), Caught> {
        let mut m = Faults::<P>::new(config).expect("a valid configuration");
        for &(a, b, c) in steps {
            let id = VcpuId::new(u32::from(a) % u32::from(config.vcpus));
            let fault = fault(u32::from(b) % PAGES);
            let seen = [Seen::Sigbus, Seen::Efault, Seen::MmioInSlot][usize::from(c) % 3];
            let apf = if c < 128 { LinuxApf::On } else { LinuxApf::Off };
            let state = if b < 200 {
                PageState::Failed(failure())
            } else {
                PageState::Present
            };
            let taken = m.handle_observed(id, fault, seen, apf, state);
            let first = m.poll_effect();
            ensure!(m.poll_effect().is_none(), "two answers to one observation");
            match (taken, first) {
                (Accepted::Taken, Some(Effect::Confirm { vcpu })) => {
                    ensure!(
                        vcpu == id && seen == Seen::Sigbus && apf == LinuxApf::On,
                        "confirms"
                    );
                }
                (Accepted::Taken, Some(Effect::Retry { vcpu })) => {
                    ensure!(vcpu == id && state == PageState::Present, "tries again");
                }
                (
                    Accepted::Taken,
                    Some(Effect::Tell {
                        vcpu, fault: of, ..
                    }),
                ) => {
                    ensure!(vcpu == id && of == fault, "tells of something else");
                    let hears = Listening {
                        kernel_mode: c.is_multiple_of(5),
                        event_pending: false,
                        machine_checks: c % 7 != 2,
                    };
                    let taken = m.handle_listening(id, hears);
                    ensure!(taken == Accepted::Taken, "does not hear");
                    match m.poll_effect() {
                        Some(Effect::MachineCheck { .. }) => {
                            ensure!(!hears.kernel_mode && hears.machine_checks, "tells nobody");
                        }
                        Some(Effect::Report { .. }) => {
                            ensure!(m.handle_resume(id) == Accepted::Taken, "cannot resume");
                            m.poll_effect();
                        }
                        other => return Err(format!("{other:?}")),
                    }
                }
                (
                    Accepted::Taken,
                    Some(Effect::Report {
                        vcpu, fault: of, ..
                    }),
                ) => {
                    ensure!(vcpu == id && of == fault, "reports something else");
                    ensure!(m.handle_resume(id) == Accepted::Taken, "cannot resume");
                    m.poll_effect();
                }
                other => return Err(format!("{other:?}")),
            }
            m.check_invariants()
                .map_err(|violation| violation.to_string())?;
        }
        Ok(())
    }

    /// Applies a step to a machine and to its view: they must stay alike.
    pub(in super::super) fn views_agree(mut self, steps: &[Step]) -> Result<(), Caught> {
        for &step in steps {
            self.step(step)?;
            let (view, renaming) = self.m.canonical();
            ensure!(
                view.check_invariants().is_ok(),
                "the view breaks an invariant"
            );
            ensure!(view.view() == view, "the view of a view differs");
            for (v, vcpu) in self.vcpus.iter().enumerate() {
                let id = VcpuId::new(v as u32);
                for index in 0..PAGES {
                    let state = self.state(index);
                    let apply = |m: &Faults<P>| {
                        let mut m = m.clone();
                        m.handle_fault(id, fault(index), &moment(index, 1), state);
                        while m.poll_effect().is_some() {}
                        m.view()
                    };
                    ensure!(
                        apply(&self.m) == apply(&view),
                        "a fault tells view and state apart"
                    );
                }
                for &item in vcpu.items.keys() {
                    let Some(renamed) = renaming.item(id, item) else {
                        continue;
                    };
                    let answer = |m: &Faults<P>, item| {
                        let mut m = m.clone();
                        m.handle_work_done(id, item, PageOutcome::Present);
                        m.handle_announced(id, item, Announced::Injected);
                        m.handle_prefaulted(id, item, Prefaulted::Error(failure()));
                        m.handle_entry(id, Root::new(1));
                        m.handle_ack(id);
                        while m.poll_effect().is_some() {}
                        m.view()
                    };
                    let alike = answer(&self.m, item) == answer(&view, renamed);
                    ensure!(alike, "answers tell view and state apart");
                }
            }
        }
        Ok(())
    }
}
