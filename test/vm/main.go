// Vm runs one test binary on another kernel: it boots Debian's cloud kernel in QEMU,
// with nothing but the binary, busybox and the few tools that tests call, and gives
// back the binary's output and exit code.
//
//	go test -exec "bin/vm --kernel 6.12" ./internal/datapath/...
//	GOARCH=arm64 go test -exec "bin/vm --arch arm64" ./internal/datapath/...
//
// It is for kernel features that the machine at hand may lack (ipvlan, netkit, tcx) or
// must be able to do without (an older kernel). The CPU is emulated, so that it works
// inside any virtual machine; what is right can be tested in it, what is fast can not.
//
// The kernel package is fetched by apt, which checks its signature, and unpacked below
// the cache folder; nothing is installed. The program runs in the guest too, as its
// first process. For another architecture the tools that tests call are fetched likewise.
//
// With --debian the guest is a whole Debian system: the program's test can start the services that configure
// network devices on a node, and plug devices in (system.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// cacheEnv and defaultCache are the lab's: one folder for all that is fetched.
	cacheEnv     = "TERWAY_CACHE"
	defaultCache = "/var/cache/terway-lab"

	// exitTrouble is what `go test` sees when the VM, not the test, failed.
	exitTrouble = 125
)

func main() {
	switch {
	case os.Getpid() == 1:
		guest()
		return
	case len(os.Args) == 2 && os.Args[1] == guestService:
		service()
		return
	}
	// QEMU is to die with us, which the kernel does by the thread that started it.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = exitTrouble
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	arch := flags.String("arch", "amd64", "the guest's processor, amd64 or arm64: for arm64 the program and this one, as vm-arm64 beside it, are compiled for arm64")
	series := flags.String("kernel", "6.12", "kernel series, one of "+strings.Join(seriesNames("amd64"), ", ")+"; for arm64 "+strings.Join(seriesNames("arm64"), ", "))
	memory := flags.Int("memory", 1024, "the guest's memory in MiB")
	debian := flags.Bool("debian", false, "boot a Debian system with systemd, NetworkManager and cloud-init, which runs the program as a service, on a machine with network devices")
	keep := flags.Bool("keep", false, "keep the folder with the guest's kernel log")
	limit := flags.Duration("limit", 0, "give up after this long; default: a minute more than -test.timeout, or 10m")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: vm [flags] PROGRAM [ARGUMENT…]   (go test -exec \"vm [flags]\")\n       vm [flags] fetch")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0, nil
		}
		return 0, err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return 2, nil
	}
	if _, ok := architectures[*arch]; !ok {
		return 0, fmt.Errorf("--arch %s: must be amd64 or arm64", *arch)
	}
	cache := os.Getenv(cacheEnv)
	if cache == "" {
		cache = defaultCache
	}
	k, err := fetchKernel(ctx, filepath.Join(cache, "vm"), *arch, *series)
	if err != nil {
		return 0, err
	}
	if flags.NArg() == 1 && flags.Arg(0) == "fetch" {
		fmt.Println(k.pkg)
		return 0, nil
	}
	if *limit == 0 {
		*limit = testTimeout(flags.Args()) + time.Minute
	}
	m := machine{arch: *arch, memory: *memory, limit: *limit, keep: *keep}
	if *debian {
		if *arch != "amd64" {
			return 0, fmt.Errorf("--debian is for amd64 only, not with --arch %s", *arch)
		}
		if m.system, err = fetchSystem(ctx, filepath.Join(cache, "vm")); err != nil {
			return 0, err
		}
		// The file system is in memory, and until it is unpacked there is its archive too.
		m.memory += 1024
	}
	return boot(ctx, k, m, flags.Arg(0), flags.Args()[1:])
}

// testTimeout is how long the test binary gives itself.
func testTimeout(args []string) time.Duration {
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "-test.timeout="); ok {
			if d, err := time.ParseDuration(v); err == nil && d > 0 {
				return d
			}
		}
	}
	return 9 * time.Minute
}
