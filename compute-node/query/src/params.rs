//! Values that a statement leaves open as `$1` or `$name`.
//!
//! A value is bound in the plan as a literal of its type. It is never part of the text, so nothing
//! in it can change what the statement says.

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::schema::ColumnType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use serde_json::Value;

use crate::columns;
use crate::tokens::position;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Param(ScalarValue);

fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::BadParameter, detail)
}

impl Param {
    /// Text.
    pub fn text(value: impl Into<String>) -> Self {
        Self(ScalarValue::Utf8(Some(value.into())))
    }

    /// A JSON scalar, or `{"type": T, "value": V}` with a type as replies name it.
    ///
    /// * errors: a list, another object, an unknown type, or a value that does not fit it.
    pub fn from_json(value: &Value) -> Result<Self, Failure> {
        match value {
            Value::Object(members) => {
                let (Some(Value::String(ty)), Some(value), 2) =
                    (members.get("type"), members.get("value"), members.len())
                else {
                    return Err(bad(
                        "an object as a parameter has the members type and value",
                    ));
                };
                Self::typed(ty, value)
            }
            value => scalar(value).map(Self),
        }
    }

    fn typed(ty: &str, value: &Value) -> Result<Self, Failure> {
        let misfit = || bad(format!("parameter {value} is no {ty}"));
        let wanted = match ty {
            "timestamp" => DataType::Timestamp(TimeUnit::Nanosecond, None),
            ty => {
                let ty: ColumnType = ty
                    .parse()
                    .map_err(|_| bad(format!("unknown type {ty:?}")))?;
                match ty {
                    ColumnType::Timestamp(unit) => {
                        DataType::Timestamp(columns::arrow_unit(unit), None)
                    }
                    ty => auxo_sst::batch::arrow_type(ty),
                }
            }
        };
        if let (DataType::Binary, Value::String(text)) = (&wanted, value) {
            let bytes = STANDARD.decode(text).map_err(|_| misfit())?;
            return Ok(Self(ScalarValue::Binary(Some(bytes))));
        }
        let given = scalar(value)?;
        let cast = given.cast_to(&wanted).map_err(|_| misfit())?;
        // A cast that loses something, as from 2.5 to an integer, is not what was meant.
        let back = match given {
            ScalarValue::Float64(_) => cast.cast_to(&given.data_type()).map_err(|_| misfit())?,
            _ => given.clone(),
        };
        let lossless = back == given || wanted.is_floating();
        if cast.is_null() != given.is_null() || !lossless {
            return Err(misfit());
        }
        Ok(Self(cast))
    }
}

fn scalar(value: &Value) -> Result<ScalarValue, Failure> {
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::String(text) => ScalarValue::Utf8(Some(text.clone())),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => ScalarValue::Int64(Some(integer)),
            (None, Some(integer), _) => ScalarValue::UInt64(Some(integer)),
            (None, None, float) => ScalarValue::Float64(float),
        },
        Value::Array(_) | Value::Object(_) => {
            return Err(bad("a parameter is one value, not a list or an object"));
        }
    })
}

/// All values of a statement.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Params {
    /// The statement has none.
    #[default]
    None,
    /// For `$1`, `$2` and so on.
    List(Vec<Param>),
    /// For `$name`.
    Named(Vec<(String, Param)>),
}

impl Params {
    /// The `params` member of a request: a list, an object, or null.
    ///
    /// * errors: anything else, or a value [`Param::from_json`] refuses.
    pub fn from_json(value: &Value) -> Result<Self, Failure> {
        match value {
            Value::Null => Ok(Self::None),
            Value::Array(values) => {
                let values = values.iter().map(Param::from_json);
                Ok(Self::List(values.collect::<Result<_, _>>()?))
            }
            Value::Object(members) => {
                let members = members.iter();
                let named =
                    members.map(|(name, value)| Ok((name.clone(), Param::from_json(value)?)));
                Ok(Self::Named(named.collect::<Result<_, Failure>>()?))
            }
            _ => Err(bad("params is a list for $1, $2, or an object for $name")),
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        match self {
            Self::None => None,
            Self::List(values) => {
                let number: usize = name.parse().ok()?;
                (1..=values.len()).contains(&number).then(|| number - 1)
            }
            Self::Named(values) => values.iter().position(|(known, _)| known == name),
        }
    }

    /// Numbers the placeholders of a statement and gives the values in that order.
    ///
    /// * errors: a placeholder without a value, at its place; a value without a placeholder.
    pub(crate) fn bind(
        &self,
        tokens: &mut [TokenWithSpan],
        text: &str,
    ) -> Result<Option<ParamValues>, Failure> {
        let mut used = vec![false; self.len()];
        let mut any = false;
        for TokenWithSpan { token, span } in tokens {
            let Token::Placeholder(written) = token else {
                continue;
            };
            let place = || position(text, span.start);
            let Some(name) = written.strip_prefix('$').filter(|name| !name.is_empty()) else {
                let failure = bad(format!("parameters are written $1 or $name, not {written}"));
                return Err(failure.at(place()));
            };
            let Some(at) = self.find(name) else {
                return Err(bad(format!("parameter {written} has no value")).at(place()));
            };
            used[at] = true;
            any = true;
            *written = format!("${}", at + 1);
        }
        if let Some(at) = used.iter().position(|used| !used) {
            let name = match self {
                Self::Named(values) => values[at].0.clone(),
                _ => (at + 1).to_string(),
            };
            return Err(bad(format!("the statement has no parameter ${name}")));
        }
        let values: Vec<ScalarValue> = match self {
            Self::None => Vec::new(),
            Self::List(values) => values.iter().map(|value| value.0.clone()).collect(),
            Self::Named(values) => values.iter().map(|(_, value)| value.0.clone()).collect(),
        };
        Ok(any.then(|| ParamValues::from(values)))
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::List(values) => values.len(),
            Self::Named(values) => values.len(),
        }
    }
}
