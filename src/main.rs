//! The `detrim` command.

mod cli;

use clap::{Parser, Subcommand};

/// Trims DETR, the object detection transformer, and runs it.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(cli::inspect::Arguments),
    Convert(cli::convert::Arguments),
    Export(cli::export::Arguments),
    Fetch(cli::fetch::Arguments),
    Detect(cli::detect::Arguments),
    Trim(cli::trim::Arguments),
    Importance(cli::importance::Arguments),
    Prune(cli::prune::Arguments),
    Report(cli::report::Arguments),
    Train(cli::train::Arguments),
    Eval(cli::eval::Arguments),
    Forward(cli::forward::Arguments),
    Bench(cli::bench::Arguments),
}

/// Has glibc keep the memory that one picture needed for the next: given back and asked for again, each page of it costs a fault, which
/// makes a picture take half as long again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_memory() {
    // SAFETY: no other thread is running yet. A value that is refused leaves all as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory() {}

fn main() -> std::process::ExitCode {
    keep_memory();
    // candle's own threads spin while they wait for a sum of two tensors to be shared out among them; ours are busy.
    // SAFETY: no other thread is running yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let result = match Arguments::parse().command {
        Command::Inspect(arguments) => cli::inspect::run(arguments),
        Command::Convert(arguments) => cli::convert::run(arguments),
        Command::Export(arguments) => cli::export::run(arguments),
        Command::Fetch(arguments) => cli::fetch::run(arguments),
        Command::Detect(arguments) => cli::detect::run(arguments),
        Command::Importance(arguments) => cli::importance::run(arguments),
        Command::Prune(arguments) => cli::prune::run(arguments),
        Command::Report(arguments) => cli::report::run(arguments),
        Command::Trim(arguments) => cli::trim::run(arguments),
        Command::Train(arguments) => cli::train::run(arguments).map(drop),
        Command::Eval(arguments) => cli::eval::run(arguments),
        Command::Forward(arguments) => cli::forward::run(arguments),
        Command::Bench(arguments) => cli::bench::run(arguments),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", cli::printable(&cli::sentence(&error)));
            std::process::ExitCode::FAILURE
        }
    }
}
