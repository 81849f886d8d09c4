//! The command `serve`.

mod args;
mod file;
mod signals;
mod supervise;

use std::path::Path;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit, setrlimit};
use surefault_serve::{Daemon, FileSource, ListenError, Source, Supervised, enter_sandbox};
use surefault_store::FileStore;

use self::args::{FailedPageChoice, Settings};
pub(crate) use self::args::{Listen, ServeArgs};
use crate::exit::{Exit, Failure};
use crate::metrics;

pub(crate) fn serve(args: &ServeArgs) -> Result<Exit, Failure> {
    let mut settings = args.settings.clone();
    if let Some(path) = &args.config {
        settings.fill_in(file::load(path)?);
    }
    check(&settings)?;
    raise_descriptor_limit();
    if args.stand_by || (!args.supervised && !settings.no_supervisor) {
        return supervise::supervise(&settings, args.stand_by);
    }
    let supervised = if args.supervised {
        let supervised = Supervised::begin().map_err(|error| {
            let error = anyhow::Error::new(error).context("nobody supervises at standard input");
            Failure::new(Exit::Usage, error)
        })?;
        Some(supervised)
    } else {
        None
    };
    let is_successor = supervised.as_ref().is_some_and(Supervised::is_successor);
    let log = |event: &_| eprintln!("surefault: {event}");
    let sources = |store: &str| source(store).map_err(|error| error.to_string());
    let (config, sources) = (settings.config(), Box::new(sources));
    let daemon = match supervised {
        Some(supervised) => Daemon::supervised(config, log, sources, supervised),
        None => Daemon::new(config, log, sources),
    };
    let daemon = daemon.map_err(|error| listen_failure("--control", error))?;
    if let Some(address) = settings.metrics {
        let shown = daemon.clone();
        metrics::serve(address, move || shown.metrics())?;
    }
    // A successor knows what was added and removed since.
    let listen = settings.listen.iter().filter(|_| !is_successor);
    for Listen { socket, store } in listen {
        let source = source(store).map_err(|error| Failure::option("--listen", error))?;
        let listening = daemon.listen(socket, source);
        listening.map_err(|error| listen_failure("--listen", error))?;
    }
    signals::handle(&daemon)?;
    if !settings.no_seccomp {
        let remedy = "--no-seccomp does without";
        enter_sandbox().map_err(|error| Failure::new(Exit::Host, error).with_remedy(remedy))?;
    }
    daemon.run();
    Ok(match signals::stopped() {
        true => Exit::Incomplete,
        false => Exit::Ran,
    })
}

fn check(settings: &Settings) -> Result<(), Failure> {
    if settings.listen.is_empty() && settings.control.is_none() {
        return Err(Failure::usage(
            "nothing to serve: give --listen SOCKET=STORE, or --control PATH to be told later",
        ));
    }
    if let Some(address) = settings
        .metrics
        .filter(|address| !address.ip().is_loopback())
    {
        return Err(Failure::usage(format_args!(
            "--metrics {address}: only this host may see them (say 127.0.0.1:{})",
            address.port()
        )));
    }
    // Also asks the kernel before the sandbox is closed.
    let poisons = surefault_pager::kernel_poisons();
    if settings.failed_page == Some(FailedPageChoice::Poison) && !poisons {
        let error = anyhow::anyhow!(
            "--failed-page poison: this kernel cannot poison pages, or hides userfaultfd"
        );
        let remedy = "Linux 6.6 or later, or --failed-page kill";
        return Err(Failure::new(Exit::Host, error).with_remedy(remedy));
    }
    if settings.failed_page.is_none() && !poisons {
        eprintln!("surefault: this kernel cannot poison pages: VMs whose pages fail are killed");
    }
    Ok(())
}

/// What a socket's VMs are served from. It has to be there now; how long it is, is seen by each VM.
fn source(store: &str) -> Result<Arc<dyn Source>, anyhow::Error> {
    if let Some((scheme, _)) = store.split_once("://") {
        anyhow::bail!(
            "sources by '{scheme}://' are not available yet (there are files and block devices)"
        );
    }
    let path = Path::new(store);
    FileStore::open_as_it_is(path)?;
    Ok(Arc::new(FileSource::new(&std::path::absolute(path)?)))
}

fn listen_failure(option: &'static str, error: ListenError) -> Failure {
    Failure::option(option, error)
}

/// Each VM takes some descriptors; the soft limit is from another age.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Then there is room for fewer.
    let _ = setrlimit(Resource::Nofile, limit);
}
