//! One connection to a runtime: register, then one request in, one answer out.

use std::fmt;
use std::os::unix::net::UnixStream;

use protobuf::Message;

use super::entries;
use super::mux::{Channel, Trunk};
use super::plugin::Plugin;
use super::proto::nri::{
    ConfigureRequest, ConfigureResponse, CreateContainerRequest, FailurePolicy, PodRequest, PodSandbox,
    RegisterPluginRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
};
use super::proto::ttrpc::{Request, Response};
use super::ttrpc::{self, Code, Frame, MAX_BODY, Status, failure};
use crate::journal::Level;
use crate::sys::socket;

const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// Our only call, RegisterPlugin.
const REGISTRATION: u32 = 1;

/// Why a connection ended other than by its end.
#[derive(Debug)]
pub enum Error {
    /// The next one may do better.
    Lost(String),
    /// The next one would end in the same way.
    Lasting(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Error::Lost(why) | Error::Lasting(why)) = self;
        f.write_str(why)
    }
}

/// Serves one connection until the runtime closes it or says Shutdown.
pub fn run(socket: UnixStream, registration: &RegisterPluginRequest, plugin: &mut Plugin) -> Result<(), Error> {
    plugin.runtime = socket::peer(&socket);
    let mut session = Session {
        trunk: Trunk::new(socket).map_err(Error::Lost)?,
        plugin,
        last_stream: 0,
        synchronized: false,
        over: None,
        last: None,
        last_create: None,
    };
    let call = ttrpc::request(REGISTRATION, RUNTIME_SERVICE, "RegisterPlugin", registration).map_err(Error::Lasting)?;
    session.trunk.send(Channel::Runtime, &call).map_err(Error::Lost)?;
    while let Some((channel, frame)) = session.trunk.next().map_err(Error::Lost)? {
        match (channel, frame.kind) {
            (Channel::Plugin, ttrpc::REQUEST) => session.serve(frame)?,
            (Channel::Runtime, ttrpc::RESPONSE) if frame.stream == REGISTRATION => registered(frame)?,
            // Nothing that anybody waits for an answer to.
            (channel, kind) => {
                let message = format!("ignored a frame of type {kind} on channel {channel:?}");
                session.plugin.journal.say(Level::Debug, message);
            }
        }
        if let Some(end) = session.over {
            session.trunk.linger();
            return end;
        }
    }
    let too_soon = || Error::Lost("the runtime closed the connection before the plugin was set up".to_owned());
    session.synchronized.then_some(()).ok_or_else(too_soon)
}

struct Session<'a> {
    trunk: Trunk,
    plugin: &'a mut Plugin,
    last_stream: u32,
    /// Whether the runtime has told all pods: the last step of setting up.
    synchronized: bool,
    over: Option<Result<(), Error>>,
    /// The last request, kept until the next one is read: musl's allocator gives memory back to the kernel as soon as
    /// nothing of a size is in use, and would ask for it again with every request.
    last: Option<(Vec<u8>, Request)>,
    last_create: Option<CreateContainerRequest>,
}

/// Larger requests are not kept.
const KEPT: usize = 64 * 1024;

/// Reads the answer to RegisterPlugin.
fn registered(frame: Frame) -> Result<(), Error> {
    let refused = |why: &dyn fmt::Display| Error::Lasting(format!("the runtime refused the registration: {why}"));
    let body = frame.body.map_err(|length| refused(&format_args!("with a frame of {length} bytes")))?;
    let response = Response::parse_from_bytes(&body).map_err(|e| refused(&e))?;
    match response.status.code {
        0 => Ok(()),
        _ => Err(refused(&response.status.message)),
    }
}

impl Session<'_> {
    fn serve(&mut self, frame: Frame) -> Result<(), Error> {
        let stream = frame.stream;
        let answer = ttrpc::response(stream, self.answer(frame)).map_err(Error::Lasting)?;
        self.trunk.send(Channel::Plugin, &answer).map_err(Error::Lost)
    }

    fn answer(&mut self, frame: Frame) -> Result<Vec<u8>, Status> {
        // Streams that the other side opens are odd, and each is new (containerd/ttrpc, PROTOCOL.md).
        let stream = frame.stream;
        if stream.is_multiple_of(2) {
            return Err(invalid(format_args!("stream {stream} is even")));
        }
        if stream <= self.last_stream {
            return Err(invalid(format_args!("stream {stream} is not after the last one")));
        }
        self.last_stream = stream;
        let body = frame.body.map_err(|length| {
            let message = format!("a message of {length} bytes is over the limit of {MAX_BODY}");
            failure(Code::ResourceExhausted, message)
        })?;
        let request: Request = parse(&body)?;
        if request.service != PLUGIN_SERVICE {
            return Err(unimplemented("service", &request.service));
        }
        let answer = self.call(&request.method, &request.payload);
        self.last = (body.len() <= KEPT).then_some((body, request));
        answer
    }

    fn call(&mut self, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status> {
        match method {
            "Configure" => {
                let configured = self.plugin.configure(&parse::<ConfigureRequest>(payload)?);
                if let Err(failure) = &configured {
                    self.over = Some(Err(Error::Lasting(failure.message.clone())));
                }
                // Where the runtime knows it: rather fail a request loudly than create a container without us.
                let policy = FailurePolicy { fail_request: true, keep_connected: true, ..Default::default() };
                let failure_policy = Some(policy).into();
                encode(&ConfigureResponse { events: configured?, failure_policy, ..Default::default() })
            }
            "Synchronize" => {
                let request: SynchronizeRequest = parse(payload)?;
                self.plugin.synchronize(&request);
                self.synchronized |= !request.more;
                encode(&SynchronizeResponse { more: request.more, ..Default::default() })
            }
            "CreateContainer" => {
                let request = parse(payload)?;
                let answer = self.plugin.create(&request);
                self.last_create = (payload.len() <= KEPT).then_some(request);
                encode(&answer?)
            }
            "RunPodSandbox" => self.pod_event(1, &parse::<PodRequest>(payload)?.pod),
            "RemovePodSandbox" => self.pod_event(3, &parse::<PodRequest>(payload)?.pod),
            "StateChange" => {
                let change: StateChangeEvent = parse(payload)?;
                self.pod_event(change.event, &change.pod)
            }
            "Shutdown" => {
                self.over = Some(Ok(()));
                Ok(Vec::new())
            }
            _ => Err(unimplemented("method", method)),
        }
    }

    /// The events of api.proto that we subscribe to; others need no answer but an empty one.
    fn pod_event(&mut self, event: i32, pod: &PodSandbox) -> Result<Vec<u8>, Status> {
        match event {
            1 => self.plugin.pod_started(pod),
            3 => self.plugin.pod_removed(pod),
            _ => {}
        }
        Ok(Vec::new())
    }
}

fn parse<M: Message>(bytes: &[u8]) -> Result<M, Status> {
    entries::parse(bytes).map_err(|e| invalid(format_args!("not a valid message: {e}")))
}

fn encode(message: &impl Message) -> Result<Vec<u8>, Status> {
    message.write_to_bytes().map_err(|e| failure(Code::Internal, e.to_string()))
}

fn invalid(why: fmt::Arguments) -> Status {
    failure(Code::InvalidArgument, why.to_string())
}

fn unimplemented(what: &str, name: &str) -> Status {
    let name: String = name.chars().take(100).collect();
    failure(Code::Unimplemented, format!("{what} {name:?} is not implemented"))
}
