//! One backend to be measured: how it is reached, what it is asked for, and what is promised of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::{HeaderMap, HeaderValue, header};
use secrecy::ExposeSecret;

use super::Run;
use crate::bench::client::{Client, ClientOptions};
use crate::bench::request::{PromptScale, RequestBuilder, RequestShape};
use crate::bench::target::Target as Address;
use crate::bench::tls::{Identity, TlsOptions, read_certificates};
use crate::commands::bench::prompts;
use crate::config::certificates::private_key;
use crate::config::settings::{Backend, Credential, ModelPattern, Settings};
use crate::fleet::LiveBackend;
use crate::fleet::models::Serves;
use crate::measure::objective::Objectives;
use crate::nim::ProfileName;
use crate::planner::Shape;
use crate::route::price::Price;
use crate::wire::Api;

/// The longest that one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// One backend to be measured.
pub(super) struct Target {
    pub(super) settings: Arc<Backend>,
    /// What it is asked for, as it calls it.
    pub(super) model: String,
    pub(super) client: Arc<Client>,
    pub(super) scale: PromptScale,
    /// Whether it takes what engines know and strict servers refuse: answers of an exact length.
    pub(super) exact_length: bool,
    /// What the routes promise that may use it.
    pub(super) promises: Vec<Objectives>,
    /// Tokens of the longest request it takes, where that is known.
    longest: Option<u64>,
}

impl Target {
    /// Gets to know a backend that answers.
    ///
    /// # Errors
    /// When it serves no such model, or does not answer a request.
    pub(super) async fn meet(
        backend: &LiveBackend,
        settings: &Settings,
        wanted: Option<&str>,
        run: &Run<'_>,
    ) -> anyhow::Result<Self> {
        let (seed, clock) = (!run.seed, run.clock);
        let own = Arc::clone(backend.settings());
        let model = model(backend, wanted)?;
        let client = Arc::new(Client::new(options(&own)?, Arc::clone(clock))?);
        let mut target = Self {
            promises: promises(settings, backend.index().0),
            longest: backend.context(&model).map(|context| context.tokens),
            settings: own,
            model,
            client,
            scale: PromptScale::default(),
            exact_length: true,
        };
        // A server that refuses members it does not know is asked without them.
        for exact_length in [true, false] {
            target.exact_length = exact_length;
            let builder = RequestBuilder::new(target.shape(seed, PromptScale::default()));
            let id = format!("calibrate-{}-prompts-{exact_length}", target.settings.name);
            match prompts::scale(&target.client, &builder, &id, clock.now()).await {
                prompts::Counted::Tokens(scale) => target.scale = scale,
                prompts::Counted::Nothing => {}
                prompts::Counted::Failed(class) if exact_length && matches!(&*class, "http_400" | "http_422") => {
                    continue;
                }
                prompts::Counted::Failed(class) => {
                    bail!("it does not answer a request for `{}`: {class}", target.model)
                }
            }
            break;
        }
        Ok(target)
    }

    /// How requests to it look.
    pub(super) fn shape(&self, seed: u64, scale: PromptScale) -> RequestShape {
        RequestShape { exact_length: self.exact_length, seed, scale, ..RequestShape::new(Api::Chat, &self.model) }
    }

    /// Whether requests of such lengths fit; answers may be up to twice as long as they are on average.
    pub(super) fn takes(&self, shape: Shape) -> bool {
        let most = u64::from(shape.input_tokens) + 2 * u64::from(shape.output_tokens);
        self.longest.is_none_or(|longest| most <= longest)
    }

    /// Whether a client that asks for a model by one of these names gets what was measured; of no names, any client.
    pub(super) fn answers_to(&self, patterns: &[ModelPattern]) -> bool {
        let aliases = self.settings.rename.iter().filter(|(_, name)| **name == *self.model).map(|(alias, _)| &**alias);
        let mut names = aliases.chain([self.model.as_str()]);
        patterns.is_empty() || names.any(|name| patterns.iter().any(|pattern| pattern.matches(name)))
    }

    /// A number of its own.
    pub(super) fn number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.settings.name, &self.model).hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn price(&self) -> Option<&Price> {
        self.settings.price.as_ref()
    }

    /// GPUs it uses: as priced, else as its profile's name says.
    pub(super) fn gpus(&self) -> Option<u32> {
        match self.settings.price {
            Some(Price::PerGpuHour { gpus, .. }) => Some(gpus),
            _ => self.settings.profile.as_deref().and_then(|name| ProfileName::parse(name).profile().gpus()),
        }
    }
}

/// What the routes promise that may use a backend; none where they promise nothing.
fn promises(settings: &Settings, place: usize) -> Vec<Objectives> {
    let uses = settings.routes.iter().filter(|route| route.backends.iter().any(|(index, _)| *index == place));
    uses.map(|route| route.objectives).filter(|objectives| !objectives.is_empty()).collect()
}

fn model(backend: &LiveBackend, wanted: Option<&str>) -> anyhow::Result<String> {
    if let Some(wanted) = wanted {
        return match backend.serves(wanted) {
            Serves::Yes | Serves::NotYetKnown => Ok(wanted.to_owned()),
            Serves::Renamed(name) => Ok(name.to_string()),
            Serves::No => bail!("it does not serve the model `{wanted}`"),
        };
    }
    let configured = backend.settings().models.iter().flatten().find(|pattern| pattern.is_literal());
    if let Some(pattern) = configured {
        let renamed = |name: &str| match backend.serves(name) {
            Serves::Renamed(name) => name.to_string(),
            _ => name.to_owned(),
        };
        return Ok(renamed(&pattern.0));
    }
    let discovered = backend.discovered();
    let first = discovered.models.first().context("it lists no model at /v1/models; name one with --model")?;
    Ok(first.id.to_string())
}

fn options(backend: &Backend) -> anyhow::Result<ClientOptions> {
    let url = &backend.url;
    let path = format!("{}/v1/chat/completions", url.base_path);
    let address = Address { tls: url.https, host: url.host.to_string(), port: url.port, path };
    let mut headers = HeaderMap::new();
    match &backend.credential {
        Credential::None => {}
        Credential::ApiKey(key) => {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                .context("its `api_key` cannot stand in a header")?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Credential::ForwardClient => {
            bail!("it wants its clients' own credentials (`forward_authorization`), and there is no client")
        }
    }
    Ok(ClientOptions { headers, tls: tls(backend)?, request_timeout: PATIENCE, ..ClientOptions::new(address) })
}

fn tls(backend: &Backend) -> anyhow::Result<TlsOptions> {
    let tls = &backend.tls;
    let identity = |(certificate, key): &(std::path::PathBuf, std::path::PathBuf)| -> anyhow::Result<Arc<Identity>> {
        let read = |file: &Path| private_key(file).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()));
        Ok(Arc::new(Identity { certificates: read_certificates(certificate)?, key: read(key)? }))
    };
    Ok(TlsOptions {
        extra_roots: tls.ca.as_deref().map(read_certificates).transpose()?.unwrap_or_default(),
        only_extra: tls.ca.is_some(),
        identity: tls.identity.as_ref().map(identity).transpose()?,
        server_name: tls.server_name.as_ref().map(ToString::to_string),
    })
}
