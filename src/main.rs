use std::process::ExitCode;

fn main() -> ExitCode {
    imagefs::cli::main()
}
