//! The profile that a NIM runs, held against the one its configuration names.

use std::sync::Arc;

use headway::clock::SystemClock;
use headway::engine::Profile;
use headway::nim_simulator::{Simulator, SimulatorOptions};

use crate::support::process::Process;
use crate::support::{page, patiently, until};

const WRONG: &str = "751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c";

#[tokio::test]
async fn another_profile_than_the_configured_one_is_said_everywhere() {
    let options = SimulatorOptions::new(Profile::named("h100-latency").expect("known"));
    let engine = Simulator::start(options, Arc::new(SystemClock)).await.expect("a free port");
    let (_, said) = page(engine.address, "GET", "/v1/metadata").await;
    let (_, runs) = said.split_once(r#""selectedModelProfileId":""#).expect("an id");
    let runs = &runs[..64];
    let backend = |name: &str, profile: &str| {
        format!("  - {{ name: {name}, url: \"http://{}\", profile: {profile} }}\n", engine.address)
    };
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\nbackends:\n{}{}{}\
         routes:\n  - {{ name: r, backends: [right, wrong, named] }}\n",
        backend("right", runs),
        backend("wrong", &format!("{{ id: {WRONG}, name: vllm-fp16-tp1 }}")),
        backend("named", "vllm-fp16-tp1"),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("headway.yaml");
    std::fs::write(&file, text).expect("written");
    let (process, _, admin) = Process::serving(&file).await;
    let told = format!("is configured as profile vllm-fp16-tp1 ({WRONG}), and runs {runs}");
    let backends = patiently("what the engine says of itself", async {
        loop {
            let (_, backends) = page(admin, "GET", "/api/v1/backends").await;
            if backends.matches("running_profile").count() == 3 {
                break backends;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(backends.matches("\"profile_mismatch\"").count(), 1, "{backends}");
    assert!(backends.contains(&told) && backends.contains("\"nim_release\":\"1.8.5\""), "{backends}");
    let (status, ready) = page(admin, "GET", "/readyz?verbose").await;
    assert!(status == 200 && ready.contains(&format!("backend `wrong` {told}")), "{ready}");
    until("the log", || process.log().contains(&told)).await;
    assert_eq!(process.log().matches(&told).count(), 1, "{}", process.log());
}
