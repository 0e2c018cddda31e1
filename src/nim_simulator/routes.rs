//! Paths and what answers them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use crate::nim_simulator::connection::Connection;
use crate::nim_simulator::dialect::{self, Answer, Times};
use crate::nim_simulator::faults::{FaultKind, Faults};
use crate::nim_simulator::pace::Submitted;
use crate::nim_simulator::pages;
use crate::nim_simulator::problem::Problem;
use crate::nim_simulator::request::{Api, Job, PathFacts};
use crate::nim_simulator::state::State;
use crate::nim_simulator::stream::{EventStream, Parts};
use crate::nim_simulator::text;
use crate::nim_simulator::ticket::{End, Ticket};

/// The largest body that is read.
const BODY_LIMIT: usize = 32 << 20;
/// The longest request id that is echoed and logged.
const REQUEST_ID_LIMIT: usize = 256;

pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request; the connection is there to be broken on request.
pub(super) async fn answer(
    state: Arc<State>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let request_id = request_id(&request);
    let mut response = dispatch(state, connection, request, request_id.clone()).await;
    response.headers_mut().insert(SERVER, HeaderValue::from_static("headway-nim"));
    if let Some(id) = request_id {
        response.headers_mut().insert("x-request-id", id);
    }
    Ok(response)
}

fn request_id(request: &Request<Incoming>) -> Option<HeaderValue> {
    request.headers().get("x-request-id").filter(|id| id.len() <= REQUEST_ID_LIMIT).cloned()
}

async fn dispatch(
    state: Arc<State>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    request_id: Option<HeaderValue>,
) -> Response<AnswerBody> {
    let path = request.uri().path().to_owned();
    let Some((api, facts)) = inference(&path) else {
        return if path == "/_faults" { faults(&state, request).await } else { pages::answer(&state, &request, &path) };
    };
    if request.method() != Method::POST {
        return text_answer(StatusCode::METHOD_NOT_ALLOWED, "application/json", r#"{"detail":"Method Not Allowed"}"#);
    }
    let body = match Limited::new(request.into_body(), BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return problem_answer(&Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."), api),
    };
    let id = request_id.and_then(|id| id.to_str().map(str::to_owned).ok());
    let mut exchange = Exchange { ticket: Ticket::new(Arc::clone(&state), api, id), state, connection };
    let job = match Job::parse(api, &body, &facts, &exchange.state.limits) {
        Ok(job) => job,
        Err(problem) => return exchange.problem(&problem, api, End::Rejected),
    };
    drop(body);
    exchange.ticket.parsed(&job);
    exchange.infer(job).await
}

/// The inference API at a path, with what the path says.
fn inference(path: &str) -> Option<(Api, PathFacts<'_>)> {
    let api = match path {
        "/v1/chat/completions" => Api::Chat,
        "/v1/completions" => Api::Completions,
        "/v1/responses" => Api::Responses,
        "/v1/messages" => Api::Messages,
        "/v1/embeddings" => Api::Embeddings,
        "/v1/ranking" => Api::Ranking,
        _ => return generate(path),
    };
    Some((api, PathFacts::default()))
}

/// `/v2/models/MODEL[/versions/N]/generate[_stream]`; a model's name may hold slashes.
fn generate(path: &str) -> Option<(Api, PathFacts<'_>)> {
    let (rest, verb) = path.strip_prefix("/v2/models/")?.rsplit_once('/')?;
    let model = rest.split_once("/versions/").map_or(rest, |(model, _)| model);
    let stream = match verb {
        "generate" => false,
        "generate_stream" => true,
        _ => return None,
    };
    Some((Api::Generate, PathFacts { model: Some(model), stream: Some(stream) }))
}

/// One inference request on its connection.
struct Exchange {
    ticket: Ticket,
    state: Arc<State>,
    connection: Arc<Connection>,
}

impl Exchange {
    async fn infer(mut self, job: Job) -> Response<AnswerBody> {
        let fault = self.state.armed().strike_request();
        if let Some(fault) = fault {
            self.ticket.struck(fault);
        }
        match fault {
            Some(FaultKind::Refuse) => return self.refuse(&job, End::Fault),
            Some(FaultKind::Hang) => return self.hang().await,
            Some(FaultKind::ResetBeforeFirstToken) => return self.reset().await,
            Some(FaultKind::JsonError200) => return self.json_error(job.api),
            _ => {}
        }
        let Ok(submitted) = self.state.engine.submit(&job) else { return self.refuse(&job, End::Refused) };
        self.ticket.submitted(submitted.ids.clone(), submitted.cached);
        let answer = self.name(job, submitted.cached);
        if answer.job.stream {
            self.stream(answer, submitted, fault)
        } else {
            self.unary(answer, submitted, fault).await
        }
    }

    fn name(&self, job: Job, cached: u32) -> Answer {
        let wall = self.state.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = text::hash(job.seed, &wall.as_nanos().to_le_bytes());
        Answer { id: format!("{id:016x}"), created: wall.as_secs(), cached, job, times: None }
    }

    /// An account of the engine's times, where they are told: of requests with one choice, as vLLM does it.
    fn times(&self, job: &Job) -> Option<Times> {
        (self.state.request_metrics && job.choices.len() == 1).then(Times::default)
    }

    fn stream(mut self, answer: Answer, submitted: Submitted, fault: Option<FaultKind>) -> Response<AnswerBody> {
        self.ticket.answered(StatusCode::OK);
        let job = answer.job.clone();
        let times = self.times(&job);
        let parts = Parts {
            ticket: self.ticket,
            tokens: submitted.tokens,
            dialect: dialect::streamed(answer),
            connection: self.connection,
            fault,
            keep_alive: self.state.keep_alive,
            times,
        };
        event_answer(EventStream::new(parts, &job).boxed_unsync())
    }

    async fn unary(
        mut self,
        mut answer: Answer,
        mut submitted: Submitted,
        fault: Option<FaultKind>,
    ) -> Response<AnswerBody> {
        answer.times = self.times(&answer.job);
        let total = answer.job.total_tokens();
        for made in 0..total {
            if fault.is_some_and(|fault| interrupts(fault, made)) {
                return self.break_unary(&answer, fault).await;
            }
            let Some(token) = submitted.tokens.recv().await else {
                return self.problem(&Problem::internal(), answer.job.api, End::Fault);
            };
            if let Some(times) = &mut answer.times {
                times.token(&token);
            }
            self.ticket.token();
        }
        if fault.is_some() {
            return self.break_unary(&answer, fault).await;
        }
        self.ticket.answered(StatusCode::OK);
        self.ticket.end(End::Completed);
        bytes_answer(StatusCode::OK, "application/json", dialect::whole(&answer))
    }

    /// What the faults of streams mean for an answer in one piece.
    async fn break_unary(mut self, answer: &Answer, fault: Option<FaultKind>) -> Response<AnswerBody> {
        match fault {
            Some(FaultKind::Stall(_) | FaultKind::HangAfterHead) => self.hang().await,
            Some(FaultKind::ResetAfterHead | FaultKind::ResetAfterFirstToken) => self.reset().await,
            Some(FaultKind::ErrorEvent | FaultKind::ErrorEventMid(_)) => {
                self.problem(&Problem::internal(), answer.job.api, End::Fault)
            }
            _ => {
                let mut body = dialect::whole(answer);
                body.truncate(if fault == Some(FaultKind::Empty) { 0 } else { body.len() / 2 });
                self.ticket.answered(StatusCode::OK);
                self.ticket.end(End::Fault);
                bytes_answer(StatusCode::OK, "application/json", body)
            }
        }
    }

    /// The queue is full. With keep-alive comments the status of a stream is out by then, as in vLLM.
    fn refuse(mut self, job: &Job, end: End) -> Response<AnswerBody> {
        let inside = job.stream && self.state.keep_alive.is_some() && matches!(job.api, Api::Chat | Api::Completions);
        if !inside {
            return self.problem(&Problem::busy(), job.api, end);
        }
        self.ticket.answered(StatusCode::OK);
        self.ticket.end(end);
        let events: Vec<u8> = Problem::busy().events(job.api).concat();
        event_answer(full(events))
    }

    async fn hang(self) -> Response<AnswerBody> {
        // The ticket stays open until the client gives up.
        std::future::pending().await
    }

    async fn reset(mut self) -> Response<AnswerBody> {
        self.ticket.end(End::Fault);
        self.connection.reset();
        std::future::pending().await
    }

    fn json_error(mut self, api: Api) -> Response<AnswerBody> {
        self.ticket.answered(StatusCode::OK);
        self.ticket.end(End::Fault);
        bytes_answer(StatusCode::OK, "application/json", Problem::internal().body(api))
    }

    fn problem(mut self, problem: &Problem, api: Api, end: End) -> Response<AnswerBody> {
        self.ticket.answered(problem.status);
        self.ticket.end(end);
        problem_answer(problem, api)
    }
}

/// Whether a fault strikes a unary answer once that many tokens are made.
fn interrupts(fault: FaultKind, made: u32) -> bool {
    match fault {
        FaultKind::Stall(after) | FaultKind::ErrorEventMid(after) => made >= after,
        FaultKind::ResetAfterFirstToken => made >= 1,
        FaultKind::HangAfterHead | FaultKind::ResetAfterHead | FaultKind::ErrorEvent => true,
        _ => false,
    }
}

/// `GET` shows the faults, `POST` with a JSON list of texts sets them.
async fn faults(state: &State, request: Request<Incoming>) -> Response<AnswerBody> {
    if request.method() == Method::POST {
        let Ok(body) = Limited::new(request.into_body(), 64 << 10).collect().await else {
            return text_answer(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "too large");
        };
        let parsed = serde_json::from_slice::<Vec<String>>(&body.to_bytes())
            .map_err(|_| "write a JSON list such as [\"slow=3\"]".to_owned())
            .and_then(|texts| Faults::parse(&texts).map_err(|error| error.to_string()));
        match parsed {
            Ok(faults) => state.set_faults(faults),
            Err(message) => return bytes_answer(StatusCode::BAD_REQUEST, "text/plain", message.into_bytes()),
        }
    }
    let texts: Vec<String> = state.armed().faults().0.iter().map(ToString::to_string).collect();
    bytes_answer(StatusCode::OK, "application/json", serde_json::to_vec(&texts).unwrap_or_default())
}

fn full(body: impl Into<Bytes>) -> AnswerBody {
    Full::new(body.into()).boxed_unsync()
}

fn with_type(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn event_answer(body: AnswerBody) -> Response<AnswerBody> {
    with_type(StatusCode::OK, "text/event-stream; charset=utf-8", body)
}

pub(super) fn bytes_answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<AnswerBody> {
    with_type(status, content_type, full(body))
}

pub(super) fn text_answer(status: StatusCode, content_type: &'static str, body: &'static str) -> Response<AnswerBody> {
    with_type(status, content_type, full(body))
}

fn problem_answer(problem: &Problem, api: Api) -> Response<AnswerBody> {
    bytes_answer(problem.status, "application/json", problem.body(api))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<(Api, Option<&str>, Option<bool>)>) {
        assert_eq!(inference(path).map(|(api, facts)| (api, facts.model, facts.stream)), expected, "{path}");
    }

    #[test]
    fn triton_paths_carry_model_and_streaming() {
        check("/v1/chat/completions", Some((Api::Chat, None, None)));
        check("/v2/models/ensemble/generate", Some((Api::Generate, Some("ensemble"), Some(false))));
        check("/v2/models/meta/llama/generate_stream", Some((Api::Generate, Some("meta/llama"), Some(true))));
        check("/v2/models/m/versions/1/generate_stream", Some((Api::Generate, Some("m"), Some(true))));
        check("/v2/models/m/infer", None);
        check("/v1/models", None);
    }
}
