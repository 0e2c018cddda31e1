//! The demo from the command line, short enough for every run of the tests.

use std::process::Command;

#[tokio::test]
async fn a_short_demo_runs_to_its_report() {
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_headway"))
            .args(["demo", "--duration", "5s", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.expect("a thread").expect("a process");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "proxy at http://127.0.0.1:",
        "headway demo | route chat",
        "headway demo | route batch",
        "headway demo | backend l40s-cheap",
        "SLO attainment",
        "Share of requests per backend",
        "Cost per 1,000 good requests",
        "Incident: l40s-cheap ran 3 times slower from 2.50 to 3.75 s.",
        "/api/v1/decisions",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains('\x1b'), "a pipe gets no terminal codes");
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_headway")).args(["demo", "--fake-gpu"]).output().expect("a process");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--fake-gpu is not built yet"));
}
