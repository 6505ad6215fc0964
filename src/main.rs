//! `tollgate`: see [`tollgate::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::disable_transparent_huge_pages;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: raw tokens pass through buffers of libraries too, which know nothing of secrets.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    // First of all: whoever serves is ended by none of them, however early it comes.
    tollgate::app::hold_signals();
    make_memory_private();
    // With them, every page of a buffer that was touched once is resident: an idle connection would cost twice as much. Fails
    // only where the system has none.
    disable_transparent_huge_pages(true).ok();
    match tollgate::cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => tollgate::cli::report(&error),
    }
}

/// Raw tokens are in memory while they are used: no core file, and no other process of this user that looks into it.
///
/// Both fail only where the system does not know them. Nothing depends on them, and there is no log yet to say it in.
fn make_memory_private() {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).ok();
}
