//! The report as text.

use serde_json::Value;

/// Predictions alone and with other work beside them.
fn beside(report: &Value) -> String {
    let number = |field: &str, digits: usize| {
        let value = report.pointer(field).and_then(Value::as_f64).unwrap_or(f64::NAN);
        format!("{value:.digits$}")
    };
    let work = report["work"].as_str().unwrap_or_default();
    let mut text = format!(
        "{:<28}{:>10}{:>10}{:>10}\n",
        format!("{} predictions", number("/requests", 0)),
        "median ms",
        "p95 ms",
        "p99 ms"
    );
    for (name, part) in [("alone", "alone"), (&*format!("beside {work}"), "beside")] {
        let cell = |field: &str| number(&format!("/{part}/{field}"), 2);
        let [median, p95, p99] = ["median_ms", "p95_ms", "p99_ms"].map(cell);
        text += &format!("  {name:<26}{median:>10}{p95:>10}{p99:>10}\n");
    }
    let (median, p99) = (number("/median_over_alone", 2), number("/p99_over_alone", 2));
    text += &format!("  {:<26}{median:>10}{:>10}{p99:>10}\n", "ratio", "");
    let (in_flight, rate) = (number("/in_flight", 0), number("/a_second", 1));
    text + &format!("  {work}: {in_flight} in flight, {rate} a second\n\n")
}

/// The report for a person.
pub fn text(report: &Value) -> String {
    let number = |pointer: &str, digits: usize| {
        let value = report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
        format!("{value:.digits$}")
    };
    let whole = |pointer: &str| number(pointer, 0);
    let mut text = format!(
        "mobilenet-v2, {} workers, a JPEG of 640 x 480 ({} bytes)\n\n",
        whole("/workers"),
        whole("/photograph/bytes")
    );
    text += &format!(
        "start to ready   {} ms (median of {}), {} MB resident; {} MB after this run, at most {}\n\n",
        whole("/start/median_ready_ms"),
        whole("/start/starts"),
        number("/start/resident_mb", 1),
        number("/resident_mb_after", 1),
        number("/resident_mb_at_most", 1),
    );
    text += &format!(
        "{:<28}{:>10}{:>10}{:>10}\n",
        format!("{} requests, one at a time", whole("/latency/requests")),
        "median ms",
        "p95 ms",
        "p99 ms"
    );
    for (name, part) in [("over loopback", "loopback"), ("in process", "in_process")] {
        let cell = |field: &str| number(&format!("/latency/{part}/{field}"), 2);
        let [median, p95, p99] = ["median_ms", "p95_ms", "p99_ms"].map(cell);
        text += &format!("  {name:<26}{median:>10}{p95:>10}{p99:>10}\n");
    }
    let difference = number("/latency/median_difference_ms", 2);
    text += &format!("  {:<26}{difference:>10}\n\n", "difference");
    report["beside"].as_array().into_iter().flatten().for_each(|one| text += &beside(one));
    text += &format!(
        "{:<28}{:>10}{:>10}{:>12}{:>14}{:>14}\n",
        format!(
            "{} s each, in {} turns",
            whole("/throughput/seconds"),
            whole("/throughput/rounds")
        ),
        "images/s",
        "errors",
        "/in process",
        "client CPU s",
        "server CPU s"
    );
    let singles = format!("{} at a time", whole("/throughput/loopback/concurrency"));
    let batches = format!("{} a ModelInfer", whole("/throughput/open_inference/images_a_request"));
    for (name, part) in [(singles, "loopback"), (batches, "open_inference")] {
        let cell = |field: &str, digits| number(&format!("/throughput/{part}/{field}"), digits);
        text += &format!(
            "  {name:<26}{:>10}{:>10}{:>12}{:>14}{:>14}\n",
            cell("images_per_second", 1),
            cell("errors", 0),
            cell("over_in_process", 3),
            cell("client_cpu_seconds", 1),
            cell("server_cpu_seconds", 1),
        );
    }
    let here = number("/throughput/in_process/images_per_second", 1);
    text += &format!("  {:<26}{here:>10}\n", "in process");
    text
}
