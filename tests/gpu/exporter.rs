//! GPUs of other hosts, through their DCGM exporters.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::backend::{Scripted, send};
use crate::support::headway::{Headway, Setup};
use crate::support::{PATIENCE, texts};

/// Two GPUs; the second in instances.
const PAGE: &str = r#"# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",modelName="NVIDIA L40S"} 64
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a",modelName="NVIDIA L40S"} 71
DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{gpu="0",UUID="GPU-a",modelName="NVIDIA L40S"} 32
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="1",UUID="GPU-b",modelName="NVIDIA A100",GPU_I_PROFILE="3g.20gb",GPU_I_ID="2"} 0.25
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-b",modelName="NVIDIA A100",GPU_I_PROFILE="3g.20gb",GPU_I_ID="2"} 15000
"#;

fn page(text: &str) -> Vec<u8> {
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{text}").into_bytes()
}

async fn view(headway: &Headway, name: &str) -> Value {
    let all = headway.admin("/api/v1/backends").await.json();
    all["backends"].as_array().unwrap().iter().find(|one| one["name"] == name).expect("a backend").clone()
}

async fn heard(headway: &Headway, name: &str) -> Value {
    let waiting = async {
        while view(headway, name).await["gpu"] != "dcgm" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        view(headway, name).await
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("an exporter that is heard")
}

#[tokio::test]
async fn each_backend_shows_its_own_gpus_of_a_host() {
    let exporter = Scripted::start(vec![send(page(PAGE))]).await;
    let engine = Scripted::start(texts::streamed()).await;
    let url = format!("dcgm: \"http://{}/metrics\"", exporter.address);
    let headway = Setup::default()
        .backend("all", &engine, &url)
        .backend("one", &engine, &format!("{url}, gpus: [GPU-a], api_key: canary-key"))
        .backend("part", &engine, &format!("{url}, gpus: [1/2, 5]"))
        .start()
        .await;
    let first = |id: &str| {
        json!({
            "gpu": id, "model": "NVIDIA L40S", "utilization": 0.64, "temperature_celsius": 71.0,
            "throttled": true, "slowdowns": ["sw_thermal_slowdown"],
        })
    };
    let instance = json!({
        "gpu": "1/2", "model": "NVIDIA A100", "utilization": 0.25, "memory_used_bytes": 15_728_640_000_u64,
    });
    let missing = json!({ "gpu": "5", "problem": "the DCGM exporter does not show it" });
    assert_eq!(heard(&headway, "all").await["gpus"], json!([first("0"), instance]));
    assert_eq!(heard(&headway, "one").await["gpus"], json!([first("GPU-a")]));
    assert_eq!(heard(&headway, "part").await["gpus"], json!([instance, missing]));

    let page = headway.admin("/metrics").await.text();
    for line in [
        "headway_gpu_utilization_ratio{gpu=\"0\",backend=\"all\"} 0.64\n",
        "headway_gpu_utilization_ratio{gpu=\"1/2\",backend=\"all\"} 0.25\n",
        "headway_gpu_throttled{gpu=\"GPU-a\",backend=\"one\"} 1\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
    for _ in 0..3 {
        assert_eq!(headway.stream().await.status, 200);
    }
    let records = headway.records(3).await;
    let busy = |name: &str| {
        let record = records.iter().find(|record| record.backend().unwrap().as_ref() == name).expect("its turn");
        record.decision.as_ref().unwrap().load.gpu_utilization
    };
    assert_eq!((busy("all"), busy("one"), busy("part")), (Some(0.445), Some(0.64), Some(0.25)));
    // The engine's key is not for the exporter.
    for seen in exporter.seen() {
        assert!(seen.head.starts_with("GET /metrics HTTP/1.1\r\n"), "{}", seen.head);
        assert_eq!(seen.fields("authorization"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_exporter_that_says_nothing_useful_is_unavailable_and_disturbs_nothing() {
    let endless = Scripted::start(vec![
        send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"),
        crate::support::backend::Step::Flood(b"DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 1\n".to_vec()),
    ])
    .await;
    let other = Scripted::start(vec![send(page("up 1\n"))]).await;
    let silent = Scripted::start(vec![crate::support::backend::Step::Pause]).await;
    let engine = Scripted::start(texts::streamed()).await;
    let mut setup = Setup::default();
    for (name, exporter) in [("endless", &endless), ("other", &other), ("silent", &silent)] {
        setup = setup.backend(name, &engine, &format!("dcgm: \"http://{}/metrics\"", exporter.address));
    }
    let headway = setup.start().await;
    for exporter in [&endless, &other, &silent] {
        // The second question comes only when the first has had its answer, or none.
        crate::support::until("a second question", || exporter.seen().len() > 1).await;
    }
    assert_eq!(headway.stream().await.status, 200);
    for name in ["endless", "other", "silent"] {
        assert_eq!(view(&headway, name).await["gpu"], "unavailable", "{name}");
    }
    assert!(!headway.admin("/metrics").await.text().contains("headway_gpu_"));
}
