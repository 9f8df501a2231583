//! `SampleService`: the labelled samples on the device.

use std::time::Instant;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::blocking::blocking;
use crate::base::cancel::Cancel;
use crate::base::name::Name;
use crate::engine::learning::{Full, IncomingSample, Learning, LearningError, StoredSample};
use crate::proto::graft as wire;
use crate::proto::graft::sample_service_server::SampleService;
use crate::proto::graft::stream_samples_response::Result as Outcome;
use crate::proto::graft::{
    AddSampleRequest, AddSampleResponse, ConfigureDatasetRequest, ConfigureDatasetResponse,
    DeleteSamplesRequest, DeleteSamplesResponse, GetDatasetReportRequest, GetDatasetReportResponse,
    GetSampleRequest, GetSampleResponse, ListDatasetsRequest, ListDatasetsResponse,
    ListSamplesRequest, ListSamplesResponse, SampleAcknowledgement, StreamSamplesRequest,
    StreamSamplesResponse, UpdateSampleRequest, UpdateSampleResponse,
};
use crate::rpc::answer_size;
use crate::rpc::convert::examination::examination;
use crate::rpc::convert::field::{FieldError, Required, Within, check_length, ranged};
use crate::rpc::convert::sample::{self as convert, Surroundings, name};
use crate::rpc::convert::target;
use crate::rpc::deadline;
use crate::rpc::error::RpcError;
use crate::rpc::item_stream::{self, Limits, Policy};
use crate::store::{Filter, Sample, SampleKey, StoreError};

/// Bytes of a correlation id.
const MAXIMUM_CORRELATION_ID: usize = 200;
/// Samples of one stream on their way at a time: as many as share a COMMIT.
const IN_FLIGHT: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct Samples {
    shared: Shared,
}

impl Samples {
    /// Stores into what `shared` holds.
    pub fn new(shared: Shared) -> Self {
        Self { shared }
    }

    async fn add(
        &self,
        new: wire::NewSample,
        deadline: Option<Instant>,
        full: Full,
    ) -> Result<(Name, StoredSample), RpcError> {
        let incoming: IncomingSample = new.try_into().within("sample")?;
        let dataset = incoming.dataset.clone();
        let cancel = Cancel::with_deadline(deadline);
        let stored = self.store(incoming, cancel, full).await;
        let stored = stored.map_err(|error| error.within("sample"))?;
        Ok((dataset, stored))
    }

    /// Stores a sample. What may wait for the disk does so on a thread of its own.
    async fn store(
        &self,
        incoming: IncomingSample,
        cancel: Cancel,
        full: Full,
    ) -> Result<StoredSample, RpcError> {
        let learning = &self.shared.learning;
        let own = learning.clone();
        let open = blocking(move || Ok(own.open_sample(incoming)?)).await?;
        let ready = learning.embed_sample(open, cancel, full).await?;
        let own = learning.clone();
        let pending = blocking(move || Ok(own.store_sample(ready))).await?;
        Ok(learning.stored_sample(pending).await?)
    }

    /// Answers one item of a stream, which waits where a single call would be refused: it reads no
    /// faster than it stores, so there will be room.
    async fn answer_item(
        self,
        item: StreamSamplesRequest,
        deadline: Option<Instant>,
    ) -> StreamSamplesResponse {
        let StreamSamplesRequest { correlation_id, sample } = item;
        let result = async {
            check_length("correlation_id", &correlation_id, MAXIMUM_CORRELATION_ID)?;
            let sample = sample.required("sample")?;
            self.add(sample, deadline, Full::Wait).await
        };
        let result = match result.await {
            Ok((_, StoredSample { sample, duplicate })) => {
                Outcome::Stored(SampleAcknowledgement { id: sample.id, duplicate })
            }
            Err(error) => Outcome::Failure(error.into()),
        };
        StreamSamplesResponse { correlation_id, result: Some(result) }
    }
}

/// Labels of a change stand in a message of their own, so that none can be told from no change.
fn at_own_field(error: LearningError) -> RpcError {
    #[allow(clippy::wildcard_enum_match_arm)] // one field's error, and the rest
    match error {
        LearningError::Store(StoreError::Invalid { field, reason }) => {
            let path = field.strip_prefix("labels").map(|rest| format!("labels.values{rest}"));
            FieldError::new(path.unwrap_or(field), reason).into()
        }
        error => error.into(),
    }
}

/// A stored sample for the wire.
fn described(
    learning: &Learning,
    dataset: &Name,
    sample: Sample,
) -> Result<wire::Sample, RpcError> {
    let keys = learning.store().backbones_of(&sample).map_err(LearningError::from)?;
    let snapshot = learning.engine().snapshot();
    let stored = snapshot.backbones.values().filter(|live| keys.contains(&live.embedding_key()));
    let around = Surroundings {
        kept: learning.store().kept(&sample).map_err(LearningError::from)?,
        backbones: stored.map(|live| live.name.to_string()).collect(),
    };
    Ok(convert::sample(dataset, sample, around))
}

fn page_token(token: &str) -> Result<Option<SampleKey>, FieldError> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = u64::from_str_radix(token, 16).map(SampleKey::from_token);
    key.map(Some).map_err(|_| FieldError::new("page_token", "is none that this daemon gave"))
}

#[tonic::async_trait]
impl SampleService for Samples {
    async fn add_sample(
        &self,
        request: Request<AddSampleRequest>,
    ) -> Result<Response<AddSampleResponse>, Status> {
        let deadline = deadline::of(request.metadata());
        let sample = request.into_inner().sample.required("sample").map_err(RpcError::from)?;
        let added = self.add(sample, deadline, Full::Refuse).await?;
        let (dataset, StoredSample { sample, duplicate }) = added;
        let learning = self.shared.learning.clone();
        let sample = blocking(move || described(&learning, &dataset, sample)).await?;
        Ok(Response::new(AddSampleResponse { sample: Some(sample), duplicate }))
    }

    async fn stream_samples(
        &self,
        request: Request<Streaming<StreamSamplesRequest>>,
    ) -> Result<Response<BoxStream<StreamSamplesResponse>>, Status> {
        let limits = Limits {
            deadline: deadline::of(request.metadata()),
            draining: self.shared.draining.clone(),
            maximum_message_bytes: self.shared.maximum_message_bytes,
            room: self.shared.room.clone(),
        };
        let policy = |_: &StreamSamplesRequest| Policy::AnswerAll { in_flight: IN_FLIGHT };
        let (service, deadline) = (self.clone(), limits.deadline);
        let answer = move |item, _| service.clone().answer_item(item, deadline);
        let answers = item_stream::serve(request.into_inner(), limits, policy, answer);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_samples(
        &self,
        request: Request<ListSamplesRequest>,
    ) -> Result<Response<ListSamplesResponse>, Status> {
        let request = request.into_inner();
        let learning = self.shared.learning.clone();
        let page = blocking(move || {
            let filter = request.filter.required("filter")?;
            let (dataset, filter) = convert::filter(filter).within("filter")?;
            let size = ranged("page_size", request.page_size, 1..=1000, 100)?;
            let after = page_token(&request.page_token)?;
            let store = learning.store();
            let page = store.samples(&dataset, &filter, after, size as usize)?;
            let total = store.totals(&dataset, &filter)?;
            let describe = |sample| described(&learning, &dataset, sample);
            Ok(ListSamplesResponse {
                samples: page.samples.into_iter().map(describe).collect::<Result<_, _>>()?,
                next_page_token: page
                    .next
                    .map_or_else(String::new, |key| format!("{:x}", key.to_token())),
                total_count: total.samples,
            })
        });
        Ok(Response::new(page.await?))
    }

    async fn get_sample(
        &self,
        request: Request<GetSampleRequest>,
    ) -> Result<Response<GetSampleResponse>, Status> {
        let request = request.into_inner();
        let learning = self.shared.learning.clone();
        let limit = self.shared.maximum_message_bytes;
        let found = blocking(move || {
            let dataset = name("dataset", &request.dataset)?;
            let store = learning.store();
            let sample = store.sample(&dataset, &request.id)?;
            let image = if request.include_image { store.image_of(&sample)? } else { None };
            let image = image.map(|image| wire::Image {
                source: Some(wire::image::Source::Encoded(image.bytes.into())),
            });
            let embedding = if request.include_embedding.is_empty() {
                None
            } else {
                let backbone = request.include_embedding;
                let target = crate::engine::Target::Backbone(backbone.clone());
                let key = learning.engine().snapshot().resolve(&target)?.backbone.embedding_key();
                let values = store.embedding_of(&sample, key)?;
                values.map(|values| wire::Embedding { backbone, values })
            };
            let sample = Some(described(&learning, &dataset, sample)?);
            let found = GetSampleResponse { sample, image, embedding };
            // A photograph that just fitted came without what the device adds to it.
            answer_size::check(&found, limit).map(|()| found)
        });
        Ok(Response::new(found.await?))
    }

    async fn update_sample(
        &self,
        request: Request<UpdateSampleRequest>,
    ) -> Result<Response<UpdateSampleResponse>, Status> {
        let request = request.into_inner();
        let learning = self.shared.learning.clone();
        let sample = blocking(move || {
            let dataset = name("dataset", &request.dataset)?;
            let change = convert::change(&request)?;
            let sample = learning.update_sample(&dataset, &request.id, change);
            let sample = sample.map_err(at_own_field)?;
            described(&learning, &dataset, sample)
        });
        Ok(Response::new(UpdateSampleResponse { sample: Some(sample.await?) }))
    }

    async fn delete_samples(
        &self,
        request: Request<DeleteSamplesRequest>,
    ) -> Result<Response<DeleteSamplesResponse>, Status> {
        let DeleteSamplesRequest { filter, whole_dataset, dry_run } = request.into_inner();
        let learning = self.shared.learning.clone();
        let deleted = blocking(move || {
            let (dataset, filter) = convert::filter(filter.required("filter")?).within("filter")?;
            let all = filter == Filter::default();
            if all != whole_dataset {
                let problem = if all {
                    "must be true where the filter names nothing but the dataset"
                } else {
                    "must be false where the filter names some samples"
                };
                return Err(FieldError::new("whole_dataset", problem).into());
            }
            let store = learning.store();
            let (deleted_count, deleted_bytes) = if dry_run {
                let totals = store.totals(&dataset, &filter)?;
                (totals.samples, totals.bytes)
            } else {
                let deletion = if all {
                    learning.delete_dataset(&dataset)?
                } else {
                    learning.delete_samples(&dataset, &filter)?
                };
                (deletion.removed, deletion.bytes)
            };
            Ok(DeleteSamplesResponse { deleted_count, deleted_bytes })
        });
        Ok(Response::new(deleted.await?))
    }

    async fn list_datasets(
        &self,
        _: Request<ListDatasetsRequest>,
    ) -> Result<Response<ListDatasetsResponse>, Status> {
        let store = self.shared.learning.store();
        let stats = store.datasets().into_iter().map(|known| store.dataset_stats(&known.name));
        // One that was deleted meanwhile is not listed.
        let datasets = stats.filter_map(Result::ok).map(convert::dataset).collect();
        Ok(Response::new(ListDatasetsResponse { datasets }))
    }

    async fn configure_dataset(
        &self,
        request: Request<ConfigureDatasetRequest>,
    ) -> Result<Response<ConfigureDatasetResponse>, Status> {
        let ConfigureDatasetRequest { dataset, settings } = request.into_inner();
        let learning = self.shared.learning.clone();
        let dataset = blocking(move || {
            let dataset = name("dataset", &dataset)?;
            let settings = settings.required("settings")?.try_into().within("settings")?;
            let store = learning.store();
            store.ensure_dataset(&dataset)?;
            store.update_dataset(&dataset, settings)?;
            Ok(convert::dataset(store.dataset_stats(&dataset)?))
        });
        Ok(Response::new(ConfigureDatasetResponse { dataset: Some(dataset.await?) }))
    }

    async fn get_dataset_report(
        &self,
        request: Request<GetDatasetReportRequest>,
    ) -> Result<Response<GetDatasetReportResponse>, Status> {
        let cancel = Cancel::with_deadline(deadline::of(request.metadata()));
        // Dropping this call raises the flag, and the work stops.
        let _stop = cancel.on_drop();
        let GetDatasetReportRequest { dataset, backbone } = request.into_inner();
        let learning = self.shared.learning.clone();
        let found = blocking(move || {
            let dataset = name("dataset", &dataset)?;
            let target = target::target("", &backbone)?;
            Ok(examination(learning.examine(&dataset, &target, &cancel)?))
        });
        Ok(Response::new(found.await?))
    }
}
