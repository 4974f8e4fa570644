package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// vswitchName is the name of a temporary vSwitch.
const vswitchName = "lab-verify"

// vswitchRange is in the VPC and in none of its vSwitches, unless the user has planned one
// there.
var vswitchRange = netip.MustParsePrefix("192.168.248.0/28")

var vswitchReplaced = verify.Check{
	Name: "vswitch-replaced",
	About: "if the configuration has another vSwitch, and ENIs of the old one use all of a node's slots, the events of waiting pods say so, and not that the new one is full; " +
		"with the old one restored they start",
	NotFor:  map[string]string{lab.NetworkFlannel: "there are no Pod vSwitches"},
	Trouble: true, Shared: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		before, err := e.Consistent(ctx)
		if err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		nb, nn, err := e.withRoom(ctx)
		if err != nil {
			return "", err
		}
		old := nn.Spec.ENIs[0].VSwitchID
		defer func() {
			clean, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 2*time.Minute, errors.New("not done within two minutes"))
			defer cancel()
			err = errors.Join(err, e.putVSwitchesBack(clean), e.Empty(clean, e.Namespace), e.offerENIs(clean, nb.Name, 0), e.removeVSwitch(clean))
		}()
		// All slots beyond the shared ENIs are for exclusive ENIs.
		if err := e.offerENIs(ctx, nb.Name, int64(nn.Spec.Limits.ENIs-1-len(nn.Spec.ENIs))); err != nil {
			return "", err
		}
		id, err := e.Lab.Cloud.AddVSwitch(nb.Zone, vswitchRange, vswitchName)
		if err != nil {
			return "", err
		}
		if err := e.replaceVSwitches(ctx, nb.Zone, id); err != nil {
			return "", err
		}
		free, err := freeOn(before, nb)
		if err != nil {
			return "", err
		}
		d := e.NewDeployment("more", int32(free+1))
		d.Node = nb.Name
		if err := d.Create(ctx); err != nil {
			return "", err
		}
		said, err := e.SaysProblem(ctx, nb.Name, "no more addresses")
		if err != nil {
			return "", err
		}
		if nn, err = e.NodeNetwork(ctx, nb.Name); err != nil {
			return "", err
		}
		c := meta.FindStatusCondition(nn.ControllerConditions(), v1alpha1.ConditionAddressesAvailable)
		if c == nil || c.Reason == "VSwitchFull" || instruments.WithWords([]string{c.Message}, old) == "" {
			return "", fmt.Errorf("vSwitch %s is not configured any more and %s has free addresses, but no place for an ENI; the node's condition must name %s and not say that a vSwitch is full: %+v; terwayctl status: %s",
				old, id, old, c, said)
		}
		event, err := e.waitingPodSays(ctx, d, old)
		if err != nil {
			return "", err
		}
		if err := e.putVSwitchesBack(ctx); err != nil {
			return "", err
		}
		if _, err := d.Settle(ctx); err != nil {
			return "", fmt.Errorf("with %s configured again: %w", old, err)
		}
		return fmt.Sprintf("%s configured in place of %s, of which the ENIs of %s are: status says %q, a pod that waits %q; after it was restored, all %d were ready", id, old, nb.Name, said, event, free+1), nil
	}),
}

// withRoom returns the machine whose shared ENIs have the most free slots for addresses, at
// least one.
func (e *env) withRoom(ctx context.Context) (best lab.Machine, of *v1alpha1.NodeNetwork, err error) {
	most := 0
	for _, m := range e.Lab.Machines {
		nn, err := e.NodeNetwork(ctx, m.Name)
		if err != nil {
			return best, nil, err
		}
		n := 0
		for _, eni := range nn.Spec.ENIs {
			if !eni.Exclusive {
				n += nn.Spec.Limits.AddressesPerENI - len(eni.Addresses)
			}
		}
		if n > most {
			best, of, most = m, nn, n
		}
	}
	if of == nil {
		return best, nil, instruments.NothingToTest("no ENI of the nodes has room for another address")
	}
	return best, of, nil
}

// vswitchesAnnotation on the ConfigMap has the vSwitches before a check.
const vswitchesAnnotation = "lab.terway.dev/vswitches-before"

// replaceVSwitches sets one vSwitch as the only one of a zone in the configuration.
func (e *env) replaceVSwitches(ctx context.Context, zone, id string) error {
	return e.EditConfig(ctx, func(m *corev1.ConfigMap) error {
		was, err := setVSwitches(m, func(all map[string][]string) { all[zone] = []string{id} })
		if err != nil {
			return err
		}
		b, err := json.Marshal(was)
		if err != nil {
			return fmt.Errorf("note the vSwitches from before: %w", err)
		}
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, vswitchesAnnotation, string(b))
		return nil
	})
}

// putVSwitchesBack reverts replaceVSwitches.
func (e *env) putVSwitchesBack(ctx context.Context) error {
	return e.EditConfig(ctx, func(m *corev1.ConfigMap) error {
		note, noted := m.Annotations[vswitchesAnnotation]
		if !noted {
			return nil
		}
		var before map[string][]string
		if err := json.Unmarshal([]byte(note), &before); err != nil {
			return fmt.Errorf("annotation %s is %q: want JSON with zones and vSwitches: %w", vswitchesAnnotation, note, err)
		}
		delete(m.Annotations, vswitchesAnnotation)
		_, err := setVSwitches(m, func(all map[string][]string) {
			for zone, ids := range before {
				all[zone] = ids
			}
		})
		return err
	})
}

// setVSwitches changes only the vSwitches of a configuration, and returns the former ones.
func setVSwitches(m *corev1.ConfigMap, change func(map[string][]string)) (was map[string][]string, err error) {
	c, err := config.FromConfigMap(m.Data)
	if err != nil {
		return nil, err
	}
	var raw map[string]any
	if err := yaml.Unmarshal([]byte(m.Data[config.ConfigMapKey]), &raw); err != nil {
		return nil, fmt.Errorf("the configuration is not YAML: %w", err)
	}
	was = map[string][]string{}
	for zone, ids := range c.VSwitches {
		was[zone] = ids
	}
	change(c.VSwitches)
	raw["vswitches"] = c.VSwitches
	b, err := yaml.Marshal(raw)
	if err != nil {
		return nil, fmt.Errorf("write the configuration as YAML: %w", err)
	}
	if _, err := config.Parse(b); err != nil {
		return nil, fmt.Errorf("with vSwitches %v the configuration would not be valid:\n%w", c.VSwitches, err)
	}
	m.Data[config.ConfigMapKey] = string(b)
	return was, nil
}
