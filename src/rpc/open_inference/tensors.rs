//! Tensors of the Open Inference Protocol: what a request sends, and what it gets back.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::proto::inference::model_infer_response::InferOutputTensor;
use crate::proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, infer_parameter,
};
use crate::rpc::convert::field::{FieldError, Within};

use super::signature::{IMAGE_INPUT, Signature};

/// Rows that one request may carry; each is one run of the network.
pub const MAXIMUM_ROWS: usize = 64;

/// The one input of a request, row by row.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Values of the network's input tensor.
    Tensors(Vec<Vec<f32>>),
    /// Encoded photographs.
    Images(Vec<Bytes>),
}

/// Where the one input's values may stand.
const RAW: &str = "raw_input_contents[0]";
const PLAIN_VALUES: &str = "inputs[0].contents.fp32_contents";
const PLAIN_IMAGES: &str = "inputs[0].contents.bytes_contents";

/// The field in which the photograph of a row stands.
pub fn picture_field(row: usize, raw: bool) -> String {
    if raw { RAW.to_owned() } else { format!("{PLAIN_IMAGES}[{row}]") }
}

/// One output that the request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Position in [`Signature::outputs`].
    pub output: usize,
    /// So many best classes as text instead of the values.
    pub classification: Option<usize>,
}

/// The request's input, checked against what the model takes.
///
/// # Errors
/// Names the field at fault and what it must be.
pub fn input(request: &mut ModelInferRequest, model: &Signature) -> Result<Input, FieldError> {
    let count = request.inputs.len();
    if count != 1 {
        let problem = format!(
            "must hold exactly one input, {:?} (FP32) or {IMAGE_INPUT:?} (BYTES), not {count}",
            model.input
        );
        return Err(FieldError::new("inputs", problem));
    }
    let raw = raw_contents(request)?;
    let tensor = request.inputs.swap_remove(0);
    // A network whose own input is called `image` is told by the type.
    let images = tensor.name == IMAGE_INPUT && tensor.datatype == "BYTES";
    if images {
        return images_input(tensor, raw).map(Input::Images);
    }
    if tensor.name == model.input {
        return values_input(tensor, raw, &model.row).map(Input::Tensors);
    }
    let problem = if tensor.name == IMAGE_INPUT {
        format!("must be BYTES for the input {IMAGE_INPUT:?}, not {:?}", tensor.datatype)
    } else {
        let name = &tensor.name;
        format!("the model has no input {name:?}, only {:?} and {IMAGE_INPUT:?}", model.input)
    };
    let field = if tensor.name == IMAGE_INPUT { "datatype" } else { "name" };
    Err(FieldError::new(format!("inputs[0].{field}"), problem))
}

/// The outputs that the request wants; all of them where it names none.
///
/// # Errors
/// Names the output that does not exist, or the parameter that makes no sense.
pub fn wanted(
    requested: &[InferRequestedOutputTensor],
    model: &Signature,
) -> Result<Vec<Wanted>, FieldError> {
    if requested.is_empty() {
        let all = 0..model.outputs.len();
        return Ok(all.map(|output| Wanted { output, classification: None }).collect());
    }
    let mut wanted = Vec::with_capacity(requested.len().min(model.outputs.len()));
    for (index, tensor) in requested.iter().enumerate() {
        let path = format!("outputs[{index}]");
        let Some(output) = model.outputs.iter().position(|output| output.name == tensor.name)
        else {
            let names = model.outputs.iter().map(|output| output.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let problem = format!("the model has no output {:?}, only {names}", tensor.name);
            return Err(FieldError::new("name", problem).within(&path));
        };
        if wanted.iter().any(|other: &Wanted| other.output == output) {
            return Err(FieldError::new("name", "is asked for twice").within(&path));
        }
        wanted.push(Wanted { output, classification: classification(tensor).within(&path)? });
    }
    Ok(wanted)
}

/// The `classification` parameter: how many best classes.
fn classification(tensor: &InferRequestedOutputTensor) -> Result<Option<usize>, FieldError> {
    use infer_parameter::ParameterChoice::{
        BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param,
    };
    let Some(parameter) = tensor.parameters.get("classification") else { return Ok(None) };
    let count = match parameter.parameter_choice {
        Some(Int64Param(count)) => usize::try_from(count).unwrap_or(0),
        Some(Uint64Param(count)) => usize::try_from(count).unwrap_or(usize::MAX),
        Some(BoolParam(_) | StringParam(_) | DoubleParam(_)) | None => 0,
    };
    if count == 0 {
        let problem = "must be an integer from 1";
        return Err(FieldError::new("parameters.classification", problem));
    }
    Ok(Some(count))
}

/// The raw bytes of the one input; `None` where its values stand in `contents`.
fn raw_contents(request: &mut ModelInferRequest) -> Result<Option<Bytes>, FieldError> {
    let raw = std::mem::take(&mut request.raw_input_contents);
    let has_contents = request.inputs.iter().any(|input| input.contents.is_some());
    match (raw.len(), has_contents) {
        (0, _) => Ok(None),
        (_, true) => Err(FieldError::new(
            "raw_input_contents",
            "must be empty where an input has contents: send the one or the other",
        )),
        (1, false) => Ok(raw.into_iter().next()),
        (count, false) => {
            let problem = format!("must have one entry for the one input, not {count}");
            Err(FieldError::new("raw_input_contents", problem))
        }
    }
}

fn values_input(
    tensor: InferInputTensor,
    raw: Option<Bytes>,
    row: &[usize; 3],
) -> Result<Vec<Vec<f32>>, FieldError> {
    if tensor.datatype != "FP32" {
        let problem = format!("must be FP32, not {:?}", tensor.datatype);
        return Err(FieldError::new("inputs[0].datatype", problem));
    }
    let fits = tensor.shape.len() == 4
        && tensor.shape[1..]
            .iter()
            .zip(row)
            .all(|(have, want)| usize::try_from(*have) == Ok(*want));
    if !fits {
        let [a, b, c] = row;
        let problem = format!("must be [rows, {a}, {b}, {c}], not {:?}", tensor.shape);
        return Err(FieldError::new("inputs[0].shape", problem));
    }
    let rows = row_count(tensor.shape[0])?;
    let row_length = row.iter().product::<usize>();
    let field = if raw.is_some() { RAW } else { PLAIN_VALUES };
    let values = match raw {
        Some(raw) => raw_values(&raw, rows * row_length),
        None => plain_values(tensor.contents, rows * row_length),
    }?;
    if let Some(position) = values.iter().position(|value| !value.is_finite()) {
        let problem = format!("value {position} is {}; only finite numbers", values[position]);
        return Err(FieldError::new(field, problem));
    }
    Ok(values.chunks_exact(row_length).map(<[f32]>::to_vec).collect())
}

fn raw_values(raw: &[u8], count: usize) -> Result<Vec<f32>, FieldError> {
    let (values, rest) = raw.as_chunks::<4>();
    if values.len() != count || !rest.is_empty() {
        let problem = format!("must have {} bytes as the shape says, not {}", 4 * count, raw.len());
        return Err(FieldError::new(RAW, problem));
    }
    Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn plain_values(
    contents: Option<InferTensorContents>,
    count: usize,
) -> Result<Vec<f32>, FieldError> {
    let values = contents.unwrap_or_default().fp32_contents;
    if values.len() != count {
        let problem = format!("must have {count} values as the shape says, not {}", values.len());
        return Err(FieldError::new(PLAIN_VALUES, problem));
    }
    Ok(values)
}

fn images_input(tensor: InferInputTensor, raw: Option<Bytes>) -> Result<Vec<Bytes>, FieldError> {
    let &[rows] = tensor.shape.as_slice() else {
        let problem = format!("must be [images], not {:?}", tensor.shape);
        return Err(FieldError::new("inputs[0].shape", problem));
    };
    let rows = row_count(rows)?;
    let images = match raw {
        Some(raw) => split_elements(raw, rows)?,
        None => tensor.contents.unwrap_or_default().bytes_contents,
    };
    if images.len() != rows {
        let problem = format!("must have {rows} elements as the shape says, not {}", images.len());
        return Err(FieldError::new(PLAIN_IMAGES, problem));
    }
    Ok(images)
}

fn row_count(rows: i64) -> Result<usize, FieldError> {
    match usize::try_from(rows) {
        Ok(rows) if (1..=MAXIMUM_ROWS).contains(&rows) => Ok(rows),
        _ => {
            let problem = format!("must have 1 to {MAXIMUM_ROWS} rows a request, not {rows}");
            Err(FieldError::new("inputs[0].shape", problem))
        }
    }
}

/// Splits raw BYTES elements, each with its length in four little-endian bytes before it.
fn split_elements(mut raw: Bytes, count: usize) -> Result<Vec<Bytes>, FieldError> {
    let broken = |problem: String| FieldError::new(RAW, problem);
    let mut elements = Vec::with_capacity(count);
    while raw.has_remaining() {
        if elements.len() == count {
            let problem = format!("has {} bytes after its {count} elements", raw.len());
            return Err(broken(problem));
        }
        let index = elements.len();
        let length = raw
            .try_get_u32_le()
            .map_err(|_| broken(format!("ends within the length of element {index}")))?;
        let length = length as usize;
        if length > raw.len() {
            let problem = format!("element {index} has {length} bytes, only {} follow", raw.len());
            return Err(broken(problem));
        }
        elements.push(raw.split_to(length));
    }
    if elements.len() != count {
        let problem = format!("has {} elements, the shape says {count}", elements.len());
        return Err(broken(problem));
    }
    Ok(elements)
}

/// Adds one output to a response: FP32 values of shape [rows, classes], or where `classification`
/// asks for it BYTES `value:index:label` of shape [rows, count].
pub fn push_output(
    response: &mut ModelInferResponse,
    name: &str,
    rows: &[Vec<f32>],
    classification: Option<usize>,
    labels: &[String],
    raw: bool,
) {
    let width = rows.first().map_or(0, Vec::len);
    let count = classification.map(|count| count.min(width));
    let contents = match count {
        Some(count) => InferTensorContents {
            bytes_contents: rows.iter().flat_map(|row| best_classes(row, count, labels)).collect(),
            ..Default::default()
        },
        None => InferTensorContents { fp32_contents: rows.concat(), ..Default::default() },
    };
    let contents = if raw {
        response.raw_output_contents.push(to_raw(&contents));
        None
    } else {
        Some(contents)
    };
    response.outputs.push(InferOutputTensor {
        name: name.to_owned(),
        datatype: if count.is_some() { "BYTES" } else { "FP32" }.to_owned(),
        shape: vec![rows.len() as i64, count.unwrap_or(width) as i64],
        contents,
        ..Default::default()
    });
}

/// The `count` largest values of a row as `value:index:label`; the label and its colon are left out
/// where there is none.
fn best_classes(row: &[f32], count: usize, labels: &[String]) -> Vec<Bytes> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&one, &other| row[other].total_cmp(&row[one]).then(one.cmp(&other)));
    order.truncate(count);
    let text = |index: usize| match labels.get(index).filter(|label| !label.is_empty()) {
        Some(label) => format!("{}:{index}:{label}", row[index]),
        None => format!("{}:{index}", row[index]),
    };
    order.into_iter().map(|index| Bytes::from(text(index))).collect()
}

fn to_raw(contents: &InferTensorContents) -> Bytes {
    let values = &contents.fp32_contents;
    let elements = &contents.bytes_contents;
    let size = 4 * values.len() + elements.iter().map(|e| 4 + e.len()).sum::<usize>();
    let mut raw = BytesMut::with_capacity(size);
    for value in values {
        raw.put_f32_le(*value);
    }
    for element in elements {
        raw.put_u32_le(element.len() as u32);
        raw.put_slice(element);
    }
    raw.freeze()
}

#[cfg(test)]
mod tests {
    use super::super::signature::Output;
    use super::*;
    use crate::proto::inference::InferParameter;
    use proptest::prelude::*;

    fn model() -> Signature {
        Signature {
            name: "net".into(),
            versions: vec!["1".into()],
            platform: "graftd_onnx",
            input: "input".into(),
            row: [3, 2, 2],
            outputs: vec![Output { name: "logits".into(), width: 3 }],
            labels: vec!["cat".into(), String::new(), "dog".into()],
        }
    }

    fn request(name: &str, datatype: &str, shape: &[i64]) -> ModelInferRequest {
        let tensor = InferInputTensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            ..Default::default()
        };
        ModelInferRequest { inputs: vec![tensor], ..Default::default() }
    }

    fn with_values(shape: &[i64], values: Vec<f32>) -> ModelInferRequest {
        let mut request = request("input", "FP32", shape);
        request.inputs[0].contents =
            Some(InferTensorContents { fp32_contents: values, ..Default::default() });
        request
    }

    fn with_raw(mut request: ModelInferRequest, raw: &[u8]) -> ModelInferRequest {
        request.raw_input_contents.push(Bytes::copy_from_slice(raw));
        request
    }

    fn refusal(mut request: ModelInferRequest) -> String {
        input(&mut request, &model()).unwrap_err().to_string()
    }

    #[test]
    fn values_come_through_contents_and_through_raw_bytes_alike() {
        let values: Vec<f32> = (0_u8..24).map(f32::from).collect();
        let mut plain = with_values(&[2, 3, 2, 2], values.clone());
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut raw = with_raw(request("input", "FP32", &[2, 3, 2, 2]), &raw);
        let rows = Input::Tensors(values.chunks(12).map(<[f32]>::to_vec).collect());
        assert_eq!(input(&mut plain, &model()).unwrap(), rows);
        assert_eq!(input(&mut raw, &model()).unwrap(), rows);
    }

    #[test]
    fn images_come_as_bytes_with_their_lengths_before_them() {
        let mut request =
            with_raw(request("image", "BYTES", &[2]), &[2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
        let images = Input::Images(vec![Bytes::from_static(b"ab"), Bytes::new()]);
        assert_eq!(input(&mut request, &model()).unwrap(), images);
    }

    #[test]
    fn every_wrong_input_is_refused_with_the_field_at_fault() {
        let twelve = vec![0.0; 12];
        let mut both = with_values(&[1, 3, 2, 2], twelve.clone());
        both.raw_input_contents.push(Bytes::new());
        let mut not_finite = twelve.clone();
        not_finite[5] = f32::NAN;
        let cases = [
            (ModelInferRequest::default(), "inputs: must hold exactly one"),
            (request("pixels", "FP32", &[1]), "inputs[0].name: the model has no input \"pixels\""),
            (request("image", "FP32", &[1]), "inputs[0].datatype: must be BYTES"),
            (request("input", "INT8", &[1, 3, 2, 2]), "inputs[0].datatype: must be FP32"),
            (with_values(&[3, 2, 2], twelve.clone()), "inputs[0].shape: must be [rows, 3, 2, 2]"),
            (
                with_values(&[1, 2, 2, 3], twelve.clone()),
                "inputs[0].shape: must be [rows, 3, 2, 2]",
            ),
            (with_values(&[0, 3, 2, 2], vec![]), "inputs[0].shape: must have 1 to 64 rows"),
            (with_values(&[-1, 3, 2, 2], twelve.clone()), "inputs[0].shape: must have 1 to 64"),
            (with_values(&[i64::MAX, 3, 2, 2], vec![]), "inputs[0].shape: must have 1 to 64"),
            (with_values(&[2, 3, 2, 2], twelve), "inputs[0].contents.fp32_contents: must have 24"),
            (with_values(&[1, 3, 2, 2], not_finite), "inputs[0].contents.fp32_contents: value 5"),
            (both, "raw_input_contents: must be empty"),
            (
                with_raw(request("input", "FP32", &[1, 3, 2, 2]), &[0; 47]),
                "raw_input_contents[0]: must have 48 bytes",
            ),
            (
                with_raw(request("image", "BYTES", &[1]), &[9, 0, 0]),
                "raw_input_contents[0]: ends within",
            ),
            (
                with_raw(request("image", "BYTES", &[1]), &[9, 0, 0, 0, 1]),
                "raw_input_contents[0]: element 0 has 9 bytes, only 1",
            ),
            (
                with_raw(request("image", "BYTES", &[1]), &[0; 5]),
                "raw_input_contents[0]: has 1 bytes after",
            ),
            (
                with_raw(request("image", "BYTES", &[2]), &[0; 4]),
                "raw_input_contents[0]: has 1 elements",
            ),
            (request("image", "BYTES", &[1, 1]), "inputs[0].shape: must be [images]"),
            (request("image", "BYTES", &[65]), "inputs[0].shape: must have 1 to 64"),
        ];
        for (request, expected) in cases {
            let message = refusal(request);
            assert!(message.starts_with(expected), "{message:?} should begin with {expected:?}");
        }
    }

    #[test]
    fn outputs_are_found_by_name_and_an_empty_list_means_all() {
        let all = vec![Wanted { output: 0, classification: None }];
        assert_eq!(wanted(&[], &model()).unwrap(), all);
        let ask = |name: &str, count: Option<i64>| {
            let choice = count.map(infer_parameter::ParameterChoice::Int64Param);
            let parameter = InferParameter { parameter_choice: choice };
            let parameters =
                count.map(|_| ("classification".to_owned(), parameter)).into_iter().collect();
            wanted(&[InferRequestedOutputTensor { name: name.into(), parameters }], &model())
        };
        assert_eq!(ask("logits", Some(2)).unwrap()[0].classification, Some(2));
        assert!(ask("logits", Some(0)).unwrap_err().to_string().contains("integer from 1"));
        assert!(ask("logits", Some(-5)).is_err());
        let message = ask("scores", None).unwrap_err().to_string();
        assert_eq!(message, "outputs[0].name: the model has no output \"scores\", only logits");
    }

    #[test]
    fn classification_answers_the_best_as_value_index_label() {
        let mut response = ModelInferResponse::default();
        let rows = [vec![0.5, 2.0, -1.25]];
        push_output(&mut response, "logits", &rows, Some(9), &model().labels, true);
        assert_eq!(response.outputs[0].datatype, "BYTES");
        assert_eq!(response.outputs[0].shape, [1, 3], "no more than there are classes");
        let elements = split_elements(response.raw_output_contents[0].clone(), 3).unwrap();
        assert_eq!(elements, ["2:1", "0.5:0:cat", "-1.25:2:dog"]);
    }

    #[test]
    fn a_raw_answer_holds_the_values_little_endian() {
        let rows = [vec![1.0, -2.5], vec![3.0, 4.0]];
        let mut raw = ModelInferResponse::default();
        push_output(&mut raw, "logits", &rows, None, &[], true);
        assert_eq!(raw.outputs[0].shape, [2, 2]);
        assert_eq!(raw.outputs[0].contents, None);
        assert_eq!(&raw.raw_output_contents[0][4..8], (-2.5_f32).to_le_bytes());
        let mut plain = ModelInferResponse::default();
        push_output(&mut plain, "logits", &rows, None, &[], false);
        let contents = plain.outputs[0].contents.clone().unwrap();
        assert_eq!(contents.fp32_contents, [1.0, -2.5, 3.0, 4.0]);
        assert!(plain.raw_output_contents.is_empty());
    }

    proptest! {
        #[test]
        fn no_raw_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..64), rows in 0..5_i64) {
            let mut images = with_raw(request("image", "BYTES", &[rows]), &raw);
            let _ = input(&mut images, &model());
        }

        #[test]
        fn elements_survive_the_way_through_raw_bytes(
            elements in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..8)
        ) {
            let elements: Vec<Bytes> = elements.into_iter().map(Bytes::from).collect();
            let contents =
                InferTensorContents { bytes_contents: elements.clone(), ..Default::default() };
            prop_assert_eq!(split_elements(to_raw(&contents), elements.len()).unwrap(), elements);
        }
    }
}
