// Package engine is the runtime's side of NRI: the library that containerd has
// inside, around a plugin that it launches or that connects to it.
package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	"github.com/containerd/ttrpc"

	"uid-nri-plugin/tests/node"
)

// PluginName is the name of the plugin's file in the plugin folder.
const PluginName = "00-uid-mapper"

// Config says what a runtime is like.
type Config struct {
	Dir     string // an empty folder for its plugin, configuration and socket
	Plugin  string // the program to launch as PluginName; none if empty
	Conf    string // the text of its drop-in configuration; none if empty
	Listen  bool   // take external plugins on Socket()
	Version string // what it says its version is; that of the containerd with this NRI if empty
	Record  bool   // keep every call for Calls()

	Pods       []*api.PodSandbox // what Synchronize tells
	Containers []*api.Container
}

// Call is one call between the runtime and a plugin.
type Call struct {
	Method   string
	Request  []byte // the protobuf message; empty for calls by the plugin
	Register *api.RegisterPluginRequest
	Response []byte
	Code     int32 // of the ttrpc status
	Message  string
	Err      error // the connection's, when there was no answer
}

// Engine is a started runtime.
type Engine struct {
	cfg Config
	nri *adaptation.Adaptation

	mu    sync.Mutex
	calls []Call
}

// Start starts a runtime: when it returns, the launched plugin is registered,
// configured and synchronized, or has failed to.
func Start(cfg Config) (*Engine, error) {
	e, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return e, e.Start()
}

// New prepares a runtime that Start() starts.
func New(cfg Config) (*Engine, error) {
	if cfg.Version == "" {
		cfg.Version = Version
	}
	e := &Engine{cfg: cfg}
	nrilog.Set(quiet{})
	if cfg.Plugin != "" {
		if err := node.Install(cfg.Plugin, e.path("plugins"), PluginName); err != nil {
			return nil, err
		}
	}
	if cfg.Conf != "" {
		if err := os.MkdirAll(e.path("conf.d"), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(e.path("conf.d/"+PluginName+".conf"), []byte(cfg.Conf), 0o644); err != nil {
			return nil, err
		}
	}
	opts := []adaptation.Option{
		adaptation.WithPluginPath(e.path("plugins")),
		adaptation.WithPluginConfigPath(e.path("conf.d")),
		adaptation.WithSocketPath(e.Socket()),
	}
	if !cfg.Listen {
		opts = append(opts, adaptation.WithDisabledExternalConnections())
	}
	if cfg.Record {
		opts = append(opts, adaptation.WithTTRPCOptions(
			[]ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(e.recordCall)},
			[]ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(e.recordRegister)},
		))
	}
	nri, err := adaptation.New("containerd", cfg.Version, e.synchronize, noUpdates, opts...)
	e.nri = nri
	return e, err
}

// Start starts a runtime made by New.
func (e *Engine) Start() error { return e.nri.Start() }

// Stop kills the launched plugin and closes the socket.
func (e *Engine) Stop() { e.nri.Stop() }

// Socket is where external plugins connect to.
func (e *Engine) Socket() string { return e.path("nri.sock") }

// PluginPath is the path of the launched plugin's file.
func (e *Engine) PluginPath() string { return e.path("plugins/" + PluginName) }

func (e *Engine) path(name string) string { return filepath.Join(e.cfg.Dir, name) }

func (e *Engine) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	_, err := tell(ctx, e.cfg.Pods, e.cfg.Containers)
	return err
}

func noUpdates(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	return nil, errors.New("this plugin asks for no updates")
}

// CreateContainer asks the plugins about a container that is to be created.
func (e *Engine) CreateContainer(pod *api.PodSandbox, ctr *api.Container) (*api.ContainerAdjustment, error) {
	reply, err := e.nri.CreateContainer(context.Background(), &api.CreateContainerRequest{Pod: pod, Container: ctr})
	if err != nil {
		return nil, err
	}
	return reply.GetAdjust(), nil
}

// Calls lists the recorded calls of a method, of all methods if it is empty.
func (e *Engine) Calls(method string) []Call {
	e.mu.Lock()
	defer e.mu.Unlock()
	var calls []Call
	for _, call := range e.calls {
		if method == "" || call.Method == method {
			calls = append(calls, call)
		}
	}
	return calls
}

func (e *Engine) record(call Call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, call)
}

func (e *Engine) recordCall(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	err := invoke(ctx, req, resp)
	e.record(Call{
		Method:   methodOf(info.FullMethod),
		Request:  req.Payload,
		Response: resp.Payload,
		Code:     resp.Status.GetCode(),
		Message:  resp.Status.GetMessage(),
		Err:      err,
	})
	return err
}

func (e *Engine) recordRegister(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (interface{}, error) {
	return method(ctx, func(message interface{}) error {
		err := unmarshal(message)
		// Now, since the method tells others that the plugin is there.
		register, _ := message.(*api.RegisterPluginRequest)
		e.record(Call{Method: methodOf(info.FullMethod), Register: register, Err: err})
		return err
	})
}

func methodOf(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }

// quiet keeps the library's own log out of the tests' output.
type quiet struct{}

func (quiet) Debugf(context.Context, string, ...interface{}) {}
func (quiet) Infof(context.Context, string, ...interface{})  {}
func (quiet) Warnf(context.Context, string, ...interface{})  {}
func (quiet) Errorf(context.Context, string, ...interface{}) {}
