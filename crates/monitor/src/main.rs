//! A zygote in a program of its own, for this crate's tests and for measuring; in the product it is the berth binary
//! itself that becomes one.

fn main() -> std::process::ExitCode {
    berth_monitor::zygote_main()
}
