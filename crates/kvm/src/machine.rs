//! A VM that runs the built-in guest, put together.

use core::num::NonZeroU32;
use std::io;
use std::sync::Arc;

use surefault_core::faults::{ConfigError, LinuxApf, Violation};
use surefault_core::run::{Counters, Irqchip, OnError, TaskId};
use surefault_core::workload::Workload;
use surefault_core::{Gpa, PageId, PageSize, VcpuId};
use surefault_guest::abi::DATA_BASE;
use surefault_guest::view;
use surefault_guest::{
    Apic, GuestApf, GuestSpec, Idle, Layout, LayoutError, TaskProgress, VcpuView,
};
use thiserror::Error;

use crate::apf::Apf;
use crate::broadcast::Broadcast;
use crate::mce::Vendor;
use crate::memory::{Mapping, MemoryError};
use crate::pages::PageSource;
use crate::signals::Signals;
use crate::stats::Stats;
use crate::vcpu::{Vcpu, VcpuError};
use crate::vm::{Faults, Vm, VmError};
use crate::watch::Watch;

/// What is to be put together.
pub struct MachineSpec {
    /// vCPUs, at least 1.
    pub vcpus: u16,
    /// What the tasks touch.
    pub workload: Arc<Workload>,
    /// The size of a page of the data region.
    pub page_size: PageSize,
    /// Touches after which a task lets others run.
    pub yield_every: NonZeroU32,
    /// What a vCPU does when no task can run.
    pub idle: Idle,
    /// How faults are taken.
    pub faults: Faults,
    /// Where the interrupt controllers are.
    pub irqchip: Irqchip,
    /// Who tells the guest of asynchronous faults, with [`Faults::FromUserSpace`].
    pub apf: Option<Arc<Apf>>,
    /// What happens when a page has failed.
    pub on_error: OnError,
    /// Whose CPUs the guest is to believe it has; the host's when `None`.
    pub vendor: Option<Vendor>,
}

/// A VM with its memory, ready to run. Its vCPUs are apart ([`Machine::new`]), since each is run
/// by a thread of its own.
pub struct Machine {
    stats: Vec<Stats>,
    // Keeps the VM alive for as long as its memory is looked at.
    _vm: Vm,
    layout: Layout,
    workload: Arc<Workload>,
    watch: Arc<Watch>,
    apf: Option<Arc<Apf>>,
    system: Arc<Mapping>,
    data: Arc<Mapping>,
}

/// A machine that cannot be put together.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The guest cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// There is no VM to be had.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// There is no vCPU to be had.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// There are too many vCPUs.
    #[error("the machine of faults")]
    Watch(#[from] ConfigError),
    /// KVM counts, but does not show it.
    #[error("KVM's counters")]
    Stats(#[source] io::Error),
    /// There is no memory to be had.
    #[error("the guest's own memory")]
    Memory(#[from] MemoryError),
}

impl Machine {
    /// Puts the machine together: `data` is the memory that `pages` provides.
    ///
    /// # Errors
    /// When the host refuses something, or the guest would be too large.
    pub fn new(
        spec: &MachineSpec,
        data: Arc<Mapping>,
        pages: &Arc<dyn PageSource>,
        signals: Signals,
    ) -> Result<(Machine, Vec<Vcpu>), MachineError> {
        let mut vm = Vm::new(spec.faults, spec.irqchip)?;
        vm.set_vcpus(spec.vcpus);
        if let Some(vendor) = spec.vendor {
            vm.set_vendor(vendor);
        }
        let (layout, contents) = Layout::new(&GuestSpec {
            vcpus: spec.vcpus,
            workload: &spec.workload,
            page_size: spec.page_size,
            yield_every: spec.yield_every,
            idle: spec.idle,
            apf: match spec.faults {
                Faults::Synchronous => GuestApf::Off,
                Faults::FromUserSpace { error_word: true } => GuestApf::WithErrors,
                Faults::Asynchronous | Faults::FromUserSpace { .. } => GuestApf::On,
            },
            // Without interrupts KVM has no choice.
            interrupts: spec.faults == Faults::Asynchronous || vm.faults_are_synchronous(),
            apic: match spec.irqchip {
                Irqchip::Kernel => Apic::X2apic,
                Irqchip::User => Apic::None,
            },
        })?;
        let system = Arc::new(Mapping::present(contents.len())?);
        system.write(0, &contents)?;
        vm.add_slot(Gpa::new(0), Arc::clone(&system))?;
        vm.add_slot(Gpa::new(DATA_BASE), Arc::clone(&data))?;
        let linux_apf = match spec.faults {
            Faults::Synchronous | Faults::FromUserSpace { .. } => LinuxApf::Off,
            Faults::Asynchronous => LinuxApf::On,
        };
        if let Some(apf) = &spec.apf {
            apf.attach(&vm, pages);
        }
        let watch = Arc::new(match spec.on_error {
            OnError::Exit | OnError::Stop => Watch::new(spec.vcpus, linux_apf)?,
            OnError::Guest => Watch::telling(spec.vcpus, linux_apf)?,
        });
        let together = spec.on_error == OnError::Guest && spec.vcpus > 1;
        let broadcast = together.then(|| Arc::new(Broadcast::new(spec.vcpus)));
        let vcpus = (0..u32::from(spec.vcpus))
            .map(VcpuId::new)
            .map(|id| {
                let vcpu = Vcpu::new(&vm, id, Arc::clone(pages), Arc::clone(&watch), signals)?;
                let vcpu = match &spec.apf {
                    Some(apf) => vcpu.with_apf(Arc::clone(apf)),
                    None => vcpu,
                };
                let vcpu = match &broadcast {
                    Some(broadcast) => vcpu.with_broadcast(Arc::clone(broadcast)),
                    None => vcpu,
                };
                let start = layout.start(id).expect("laid out for as many vCPUs");
                vcpu.start(&start)?;
                Ok(vcpu)
            })
            .collect::<Result<Vec<_>, VcpuError>>()?;
        let own = Stats::of(vm.fd()).transpose();
        let of_vcpus = vcpus
            .iter()
            .filter_map(|vcpu| Stats::of(vcpu.fd()).transpose());
        let stats = own.into_iter().chain(of_vcpus).collect::<io::Result<_>>();
        let machine = Machine {
            stats: stats.map_err(MachineError::Stats)?,
            _vm: vm,
            layout,
            workload: Arc::clone(&spec.workload),
            watch,
            apf: spec.apf.clone(),
            system,
            data,
        };
        Ok((machine, vcpus))
    }

    /// What the tasks touch.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// What KVM has counted so far, over the VM and its vCPUs; nothing where KVM shows nothing.
    ///
    /// # Errors
    /// When KVM does not give the values.
    pub fn kvm_counters(&self) -> Result<Counters, MachineError> {
        let mut sums = Counters::new();
        for stats in &self.stats {
            stats.add_to(&mut sums).map_err(MachineError::Stats)?;
        }
        Ok(sums)
    }

    /// What its vCPUs share.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Its asynchronous faults, where they come from user space.
    pub fn apf(&self) -> Option<&Apf> {
        self.apf.as_deref()
    }

    /// Holds the machines of faults against their invariants.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.watch.check_invariants()?;
        self.apf
            .as_ref()
            .map_or(Ok(()), |apf| apf.check_invariants())
    }

    /// `page` is not failed any more.
    pub fn healed(&self, page: PageId) {
        self.watch.healed(page);
        if let Some(apf) = &self.apf {
            apf.healed(page);
        }
    }

    /// The memory of the data region.
    pub fn data(&self) -> &Mapping {
        &self.data
    }

    /// The tasks, by number.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> + use<> {
        (0..self.workload.tasks().len() as u16).map(TaskId::new)
    }

    /// How far `task` is.
    ///
    /// # Errors
    /// When the guest's own memory cannot be read.
    ///
    /// # Panics
    /// When there is no such task.
    pub fn progress(&self, task: TaskId) -> Result<TaskProgress, MemoryError> {
        let record = self.layout.record(task).expect("a task of this machine");
        self.read_record(record)
    }

    /// Whether the guest has killed `task`.
    ///
    /// # Errors
    /// When the guest's own memory cannot be read.
    ///
    /// # Panics
    /// When there is no such task.
    pub fn is_killed(&self, task: TaskId) -> Result<bool, MemoryError> {
        let at = self.layout.task(task).expect("a task of this machine");
        let mut bytes = [0; view::TASK_LEN];
        self.system.read(at.get(), &mut bytes)?;
        Ok(view::is_killed(&bytes))
    }

    /// What the counting tasks have counted, together.
    ///
    /// # Errors
    /// When the guest's own memory cannot be read.
    pub fn counted(&self) -> Result<u64, MemoryError> {
        let counters = self.layout.counters().iter();
        counters
            .map(|&record| Ok(self.read_record(record)?.done))
            .sum()
    }

    /// What `vcpu` says of itself.
    ///
    /// # Errors
    /// When the guest's own memory cannot be read.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn view(&self, vcpu: VcpuId) -> Result<VcpuView, MemoryError> {
        let area = self.layout.area(vcpu).expect("a vCPU of this machine");
        let mut bytes = [0; VcpuView::LEN];
        self.system.read(area.get(), &mut bytes)?;
        Ok(VcpuView::parse(&bytes))
    }

    /// The task that `vcpu` runs; `None` while the counting task runs, or nobody.
    ///
    /// # Errors
    /// When the guest's own memory cannot be read.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn running(&self, vcpu: VcpuId) -> Result<Option<TaskId>, MemoryError> {
        Ok(self.layout.running(&self.view(vcpu)?))
    }

    /// Tokens of async page faults that the guest keeps: of tasks that wait for a page, and of pages
    /// that were ready before anybody waited. A guest that has finished keeps none.
    ///
    /// # Errors
    /// When the guest's own memory cannot be read.
    pub fn tokens(&self) -> Result<u64, MemoryError> {
        let vcpus = 0..self.layout.counters().len() as u32;
        let tokens = vcpus.map(VcpuId::new).map(|vcpu| {
            let view = self.view(vcpu)?;
            let waiters = self.layout.waiters(vcpu).expect("a vCPU of this machine");
            // The guest may have broken it; a map beyond its memory is an error below.
            let mut map = vec![0; view.waiters_len.min(self.system.len())];
            self.system.read(waiters.get(), &mut map)?;
            Ok(view::tokens(&map) as u64)
        });
        tokens.sum()
    }

    fn read_record(&self, record: Gpa) -> Result<TaskProgress, MemoryError> {
        let mut bytes = [0; TaskProgress::LEN];
        self.system.read(record.get(), &mut bytes)?;
        Ok(TaskProgress::parse(&bytes))
    }
}
