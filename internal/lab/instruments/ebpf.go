package instruments

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
)

// EBPF returns the names of the eBPF programs and maps of this machine's kernel that begin with prefix; the kernel
// keeps 15 bytes of a name.
func EBPF(prefix string) (names []string, err error) {
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("list eBPF programs: %w", err)
		}
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has gone meanwhile
		} else if err != nil {
			return nil, fmt.Errorf("open eBPF program %d: %w", id, err)
		}
		info, err := p.Info()
		if err := errors.Join(err, p.Close()); err != nil {
			return nil, fmt.Errorf("read eBPF program %d: %w", id, err)
		}
		if strings.HasPrefix(info.Name, prefix) {
			names = append(names, info.Name)
		}
	}
	for id := ebpf.MapID(0); ; {
		if id, err = ebpf.MapGetNextID(id); errors.Is(err, os.ErrNotExist) {
			return names, nil
		} else if err != nil {
			return nil, fmt.Errorf("list eBPF maps: %w", err)
		}
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("open eBPF map %d: %w", id, err)
		}
		info, err := m.Info()
		if err := errors.Join(err, m.Close()); err != nil {
			return nil, fmt.Errorf("read eBPF map %d: %w", id, err)
		}
		if strings.HasPrefix(info.Name, prefix) {
			names = append(names, info.Name)
		}
	}
}
