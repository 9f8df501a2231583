//! The client command.

fn main() -> std::process::ExitCode {
    graftd::ctl::main()
}
