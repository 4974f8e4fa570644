package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// APIServer is an API server with its etcd on loopback, without nodes and controllers, for
// tests that need only the API. It uses the lab's programs; its processes are children of this
// one and end with it.
type APIServer struct {
	// Kubeconfig is the administrator's kubeconfig; Etcd is the URL of etcd's clients and
	// metrics.
	Kubeconfig, Etcd string
	// Kubectl is the path of kubectl.
	Kubectl string
	// EtcdPID and PID are the two processes.
	EtcdPID, PID int

	children []*child
}

// StartAPIServer builds the programs if the cache has none and starts them; dir holds what
// they keep and their logs; env is added to their environment. The caller closes it.
func StartAPIServer(ctx context.Context, dir string, p *Progress, env ...string) (*APIServer, error) {
	o := &Options{Dir: dir, Nodes: 1, Network: NetworkNone}
	var err error
	if o.Zones, err = ParseZones("1"); err != nil {
		return nil, err
	}
	if err := o.Normalize(); err != nil {
		return nil, err
	}
	if err := o.buildKube(ctx, p); err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	url := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
	at := fmt.Sprintf("127.0.0.1:%d", ports[2])
	if _, err := o.makePKI(&State{Options: *o, Master: Machine{Address: netip.MustParseAddr("127.0.0.1")}}, at); err != nil {
		return nil, err
	}
	s := &APIServer{Kubeconfig: o.Kubeconfig(), Kubectl: o.Bin("kubectl"), Etcd: url(ports[0])}
	etcd, err := startChild(o.path("log", "etcd.log"), append(o.etcdArgs(s.Etcd, url(ports[1])), "--quota-backend-bytes=8589934592"), env)
	if err != nil {
		return nil, err
	}
	s.children, s.EtcdPID = append(s.children, etcd), etcd.cmd.Process.Pid
	server, err := startChild(o.path("log", "kube-apiserver.log"), append(o.apiServerArgs(s.Etcd),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]),
		// Loopback is no address for the Service "kubernetes", and there is nobody to use it.
		"--endpoint-reconciler-type=none", "--profiling=true"), env)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.children, s.PID = append(s.children, server), server.cmd.Process.Pid
	if err := s.wait(ctx, o.path("log", "kube-apiserver.log"), server); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// BuildHelm builds Helm if the cache has none, and returns its path.
func BuildHelm(ctx context.Context, p *Progress) (string, error) {
	o := &Options{Nodes: 1, Network: NetworkNone}
	var err error
	if o.Zones, err = ParseZones("1"); err != nil {
		return "", err
	}
	if err := o.Normalize(); err != nil {
		return "", err
	}
	return o.Bin("helm"), o.buildOne(ctx, "bin/helm", p)
}

// buildKube builds the control plane's program.
func (o *Options) buildKube(ctx context.Context, p *Progress) error {
	if err := o.buildOne(ctx, o.kubeDir("kube"), p); err != nil {
		return err
	}
	return o.linkKube()
}

// buildOne builds what makes one program. It waits while a lab builds.
func (o *Options) buildOne(ctx context.Context, program string, p *Progress) error {
	for _, t := range o.targets() {
		if !slices.Contains(t.made, program) {
			continue
		}
		fresh, _, err := o.fresh(ctx, t)
		if fresh || err != nil {
			return err
		}
		unlock, err := o.waitCache(ctx, processBuild)
		if err != nil {
			return err
		}
		defer unlock()
		return o.buildAll(ctx, []target{t}, p)
	}
	return fmt.Errorf("the lab has no program %s", program)
}

func (s *APIServer) wait(ctx context.Context, log string, server *child) error {
	cfg, err := s.RESTConfig()
	if err != nil {
		return err
	}
	cfg.Timeout = 2 * time.Second
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the API server was not ready within two minutes"))
	defer cancel()
	return Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		if server.ended() {
			return false, fmt.Errorf("kube-apiserver ended, the end of its log:\n%s", tail(log, 15))
		}
		body, err := c.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil && string(body) == "ok", nil
	})
}

// RESTConfig returns the client configuration for programs on this machine, without client-side
// rate limit.
func (s *APIServer) RESTConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the API server's kubeconfig: %w", err)
	}
	cfg.QPS = -1
	return cfg, nil
}

// Close ends both processes.
func (s *APIServer) Close() error {
	var errs []error
	for i := len(s.children) - 1; i >= 0; i-- {
		errs = append(errs, s.children[i].end())
	}
	s.children = nil
	return errors.Join(errs...)
}

// child is a program that ends with this process at the latest.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func startChild(logPath string, args, env []string) (*child, error) {
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	defer log.Close()
	c := &child{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Dir, c.cmd.Env = log, log, "/", append(os.Environ(), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child ends.
		runtime.LockOSThread()
		defer close(c.done)
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // its log has the exit status
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return c, nil
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *child) end() error {
	if c.ended() {
		return nil
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", c.cmd.Path, err)
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(5 * time.Second):
		// The API server waits for its watches; it has no data to save.
	}
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", c.cmd.Path, err)
	}
	<-c.done
	return nil
}

// freePorts returns unused ports of loopback.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // closed at the end: otherwise the next would get the same port
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
