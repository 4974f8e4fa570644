// Package suite is what every datapath must do, as one table of scenarios on real
// kernels' namespaces. A datapath's test gives it a Kit and calls Run; what only one
// datapath has (its tables, its programs) that one tests itself.
//
// A scenario looks from outside: who answers whom, seen as whom, what the VPC dropped,
// what is left behind. It knows no mark, table or program.
//
// It needs root, and the programs ip (iproute2) and nft; nothing else (IPVS is beside it). So a test binary
// that holds it can run in a virtual machine which has a kernel and those two.
//
// Only tests import it.
package suite

import (
	"slices"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
)

// Scenario is one thing that every datapath does.
type Scenario struct {
	Name string
	run  func(t *testing.T, k world.Kit)
}

// Run is the whole suite as subtests.
func Run(t *testing.T, k world.Kit) {
	for name := range k.Except {
		if !slices.ContainsFunc(Scenarios(), func(s Scenario) bool { return s.Name == name }) {
			t.Errorf("there is no scenario %q to leave out", name)
		}
	}
	for _, s := range Scenarios() {
		if why, ok := k.Except[s.Name]; ok {
			t.Logf("%s: left out, %s", s.Name, why)
			continue
		}
		t.Run(s.Name, func(t *testing.T) { s.run(t, k) })
	}
}

// FloodStallsNobody is the scenario about what a datapath itself remembers of connections.
const FloodStallsNobody = "a flood stalls nobody"

// Scenarios is the table.
func Scenarios() []Scenario {
	return []Scenario{
		{"pods of one node talk without leaving it", podsOfOneNodeTalkWithoutLeavingIt},
		{"pods of two nodes talk by their ENI", podsOfTwoNodesTalkByTheirENI},
		{"node and pods", nodeAndPods},
		{"reverse path filter of the node", reversePathFilterOfTheNode},
		{"a spoofed source is dropped in the node", spoofedSourceIsDroppedInTheNode},
		{"a spoofed flow is dropped in the node", spoofedFlowIsDroppedInTheNode},
		{"a spoofed fragment is dropped in the node", spoofedFragmentIsDropped},
		{"forged ARP makes no neighbours", forgedARPMakesNoNeighbours},
		{"sources are checked without nftables", sourcesAreCheckedWithoutNFTables},
		{"marks of others", marksOfOthers},
		{"a deleted pod is unreachable at once", deletedPodIsUnreachableAtOnce},

		{"masquerade outside", masqueradeOutside},
		{"masquerade keeps connections", masqueradeKeepsConnections},

		{"the pod learns of a smaller MTU", fragmentationNeededReachesThePod},
		{"MTU of the ENI", eniMTU},

		{"a smaller MTU of another pod", smallerMTUOfAnotherPod},
		{"bulk arrives whole", bulkArrivesWhole},
		{"fragments arrive", fragmentsArrive},
		{"ICMP errors arrive", icmpErrorsArrive},
		{"a vanished ENI is unreachable", vanishedENIIsUnreachable},
		{"a silent gateway is unreachable", silentGatewayIsUnreachable},
		{"ping works", pingWorks},
		{"the node is one hop", nodeIsOneHop},

		{"pod to Service", podToService},
		{"node to Service", nodeToService},
		{"hairpin", hairpin},
		{"NodePort", nodePort},
		{"masqueraded connections carry on", masqueradedConnectionsCarryOn},
		{"hostPort", hostPort},
		{"Service with an endpoint outside", serviceWithEndpointOutside},
		{"DNS over a Service", dnsOverService},

		{"one port for Service and endpoint", onePortForServiceAndEndpoint},
		{"one port at the same time", onePortAtTheSameTime},
		{"Service at an address of the VPC", serviceAtAnAddressOfTheVPC},
		{"Services of both families", servicesOfBothFamilies},

		{FloodStallsNobody, floodStallsNobody},

		{"FORWARD drops by policy", forwardPolicyDrop},
		{"a chain of others drops", forwardChainOfOthers},

		{"nothing of others is touched and nothing is left", nothingOfOthersIsTouchedAndNothingIsLeft},
		{"teardown and again", teardownAndAgain},
		{"AddPod twice and after a restart", addPodTwiceAndAfterRestart},
		{"a stranded pod", strandedPod},
		{"AddPod with another list of ENIs", addPodWithAnotherListOfENIs},
		{"concurrent pods", concurrentPods},
		{"DelPod tolerates absence", delPodToleratesAbsence},
		{"address reuse", addressReuse},
		{"AddPod refuses", addPodRefuses},
		{"forwarding keeps router advertisements", forwardingKeepsRouterAdvertisements},
		{"rules do not grow with pods", rulesDoNotGrowWithPods},

		{"restart in mid-traffic", restartInMidTraffic},
		{"each piece is noticed and repaired", eachPieceIsNoticedAndRepaired},
		{"Sync with an old list", syncWithAnOldList},
		{"Sync leaves a pod at work alone", syncWithAPodAtWork},
		{"Sync of a dead sandbox", syncOfDeadSandbox},
	}
}
