//! The daemon and its local commands.

fn main() -> std::process::ExitCode {
    graftd::cli::main()
}
