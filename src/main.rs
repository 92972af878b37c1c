//! The program; all of it is in the library, so that tests, fuzz targets and benches reach it.

fn main() -> std::process::ExitCode {
    uid_nri_plugin::main()
}
