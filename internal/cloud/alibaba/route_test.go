package alibaba

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"testing"

	"terway.dev/terway/internal/cloud"
)

func block(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(i), 0}), 24)
}

func entryJSON(i int, name, instance, status string) map[string]any {
	return map[string]any{"RouteEntryId": fmt.Sprintf("rte-%d", i), "RouteEntryName": name, "DestinationCidrBlock": block(i).String(), "Type": "Custom", "Status": status,
		"NextHops": map[string]any{"NextHop": []map[string]any{{"NextHopId": instance, "NextHopType": "Instance", "Enabled": 1, "Weight": 100}}}}
}

func entriesAnswer(next string, entries ...map[string]any) answer {
	b, err := json.Marshal(map[string]any{"RequestId": "R", "NextToken": next, "RouteEntrys": map[string]any{"RouteEntry": entries}})
	if err != nil {
		panic(err) // maps of strings and numbers
	}
	return ok(string(b))
}

func TestDescribeRouteEntriesReadsAllPages(t *testing.T) {
	f := newFakeCloud(t, func(_ int, q url.Values) answer {
		if q.Get("MaxResult") != "100" || q.Get("RouteTableId") != "vtb-1" {
			t.Errorf("asked for %v", q)
		}
		switch q.Get("NextToken") {
		case "":
			return entriesAnswer("a", entryJSON(1, "n", "i-1", "Available"), entryJSON(2, "n", "i-2", "Creating"))
		case "a": // one moved to the next page in between
			return entriesAnswer("b", entryJSON(2, "n", "i-2", "Available"))
		}
		return entriesAnswer("", map[string]any{"RouteEntryId": "rte-3", "DestinationCidrBlock": "pl-1", "Type": "System", "Status": "Available", "InstanceId": "x", "NextHopType": "service"},
			map[string]any{"RouteEntryId": "rte-4", "DestinationCidrBlock": "10.0.0.1", "Type": "Custom", "Status": "Deleting"})
	})
	got, err := newTestClient(t, f).DescribeRouteEntries(t.Context(), "vtb-1")
	if err != nil || len(got) != 4 {
		t.Fatalf("%v, %+v", err, got)
	}
	if e := got[1]; e.Status != cloud.RouteAvailable || e.Destination != block(2) || !e.Custom || !slices.Equal(e.NextHops, []cloud.NextHop{{Type: "Instance", ID: "i-2"}}) || e.TableID != "vtb-1" || e.Name != "n" {
		t.Errorf("entry %+v", e)
	}
	if e := got[2]; e.Destination.IsValid() || e.Custom || len(e.NextHops) != 1 {
		t.Errorf("entry for a prefix list: %+v", e)
	}
	if e := got[3]; e.Destination != netip.MustParsePrefix("10.0.0.1/32") {
		t.Errorf("entry for a bare address: %+v", e)
	}
}

func TestRouteAnswersAreChecked(t *testing.T) {
	for name, a := range map[string]answer{
		"the same token again": entriesAnswer("a"),
		"no id":                entriesAnswer("", map[string]any{"DestinationCidrBlock": "10.0.0.0/24", "Status": "Available"}),
		"no status":            entriesAnswer("", map[string]any{"RouteEntryId": "rte-1", "DestinationCidrBlock": "10.0.0.0/24"}),
	} {
		_, err := newTestClient(t, newFakeCloud(t, in(a))).DescribeRouteEntries(t.Context(), "vtb-1")
		if cloud.Explain(err).Reason != "BadAnswer" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, a := range map[string]answer{
		"a count without entries":         ok(`{"RequestId":"R","SuccessCount":0,"FailedCount":1,"FailedRouteEntries":[]}`),
		"an entry that was not asked for": ok(`{"RequestId":"R","FailedCount":1,"FailedRouteEntries":[{"DstCidrBlock":"10.9.9.0/24","FailedCode":"TaskConflict"}]}`),
	} {
		_, err := newTestClient(t, newFakeCloud(t, in(a))).CreateRouteEntries(t.Context(), "vtb-1", []cloud.NewRouteEntry{{Destination: block(1), InstanceID: "i-1"}})
		if cloud.Explain(err).Reason != "BadAnswer" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDescribeRouteTables(t *testing.T) {
	f := newFakeCloud(t, func(n int, q url.Values) answer {
		if q.Get("PageNumber") != fmt.Sprint(n+1) || q.Get("VpcId") != "vpc-1" {
			t.Errorf("call %d asks for %v", n, q)
		}
		var page []map[string]any
		for i := n * 50; i < min(n*50+50, 51); i++ {
			kind := "Custom"
			if i == 50 {
				kind = "System"
			}
			page = append(page, map[string]any{"RouteTableId": fmt.Sprintf("vtb-%d", i), "VpcId": "vpc-1", "RouteTableType": kind, "VSwitchIds": map[string]any{"VSwitchId": []string{fmt.Sprintf("vsw-%d", i)}}})
		}
		b, err := json.Marshal(map[string]any{"RequestId": "R", "TotalCount": 51, "RouterTableList": map[string]any{"RouterTableListType": page}})
		if err != nil {
			panic(err)
		}
		return ok(string(b))
	})
	got, err := newTestClient(t, f).DescribeRouteTables(t.Context(), "vpc-1")
	if err != nil || len(got) != 51 || !got[50].System || got[0].System || got[50].ID != "vtb-50" || got[50].VPCID != "vpc-1" || !slices.Equal(got[50].VSwitchIDs, []string{"vsw-50"}) {
		t.Fatalf("%v, %+v", err, got)
	}
}

// A call is repeated when its answer is lost, and its own entries are no failure then; entries
// of others are.
func TestCreateRouteEntriesFindsItsOwn(t *testing.T) {
	duplicate := func(i int) string {
		return fmt.Sprintf(`{"DstCidrBlock":%q,"NextHop":"i-x","FailedCode":"InvalidCIDRBlock.Duplicate","FailedMessage":"there"}`, block(i))
	}
	f := newFakeCloud(t, func(n int, q url.Values) answer {
		switch {
		case q.Get("Action") == "DescribeRouteEntryList":
			return entriesAnswer("", entryJSON(1, "mine", "i-1", "Creating"), entryJSON(2, "other", "i-2", "Available"), entryJSON(3, "mine", "i-9", "Available"), entryJSON(4, "mine", "i-4", "Deleting"))
		case n == 0:
			return answer{cut: true}
		}
		if q.Get("RouteEntries.1.Name") != "mine" || q.Get("RouteEntries.1.NextHopType") != "Instance" || q.Get("RouteEntries.4.DstCidrBlock") != block(4).String() {
			t.Errorf("asked %v", q)
		}
		return ok(`{"RequestId":"R","SuccessCount":0,"FailedCount":4,"FailedRouteEntries":[` + duplicate(1) + "," + duplicate(2) + "," + duplicate(3) + "," + duplicate(4) + `]}`)
	})
	var want []cloud.NewRouteEntry
	for i := 1; i <= 4; i++ {
		want = append(want, cloud.NewRouteEntry{Destination: block(i), InstanceID: fmt.Sprintf("i-%d", i), Name: "mine"})
	}
	failures, err := newTestClient(t, f).CreateRouteEntries(t.Context(), "vtb-1", want)
	if err != nil || len(failures) != 3 || failures[0].Destination != block(2) || failures[1].Destination != block(3) || failures[2].Destination != block(4) {
		t.Fatalf("%v, %+v", err, failures)
	}
	if cloud.ClassOf(failures[0].Err) != cloud.Conflict || cloud.CodeOf(failures[0].Err) != "InvalidCIDRBlock.Duplicate" {
		t.Errorf("failure %v", failures[0].Err)
	}
}

func TestDeleteRouteEntriesOfWhatIsGone(t *testing.T) {
	f := newFakeCloud(t, in(ok(`{"RequestId":"R","SuccessCount":0,"FailedCount":3,"FailedRouteEntries":[
		{"RouteEntryId":"rte-1","FailedCode":"InvalidRouteEntryId.NotFound"},{"DstCidrBlock":"172.20.2.0/24","FailedCode":"InvalidRouteEntry.NotFound"},
		{"RouteEntryId":"rte-3","FailedCode":"TaskConflict","FailedMessage":"busy"}]}`)))
	entry := func(i int) cloud.RouteEntry {
		return cloud.RouteEntry{ID: fmt.Sprintf("rte-%d", i), TableID: "vtb-1", Destination: block(i), NextHops: []cloud.NextHop{{Type: "Instance", ID: "i-1"}}}
	}
	failures, err := newTestClient(t, f).DeleteRouteEntries(t.Context(), "vtb-1", []cloud.RouteEntry{entry(1), entry(2), entry(3)})
	if err != nil || len(failures) != 1 || failures[0].Destination != block(3) || cloud.ClassOf(failures[0].Err) != cloud.Conflict {
		t.Errorf("%v, %+v", err, failures)
	}
	c := newTestClient(t, newFakeCloud(t, in(no(400, "InvalidRouteEntry.NotFound"))))
	if failures, err := c.DeleteRouteEntries(t.Context(), "vtb-1", []cloud.RouteEntry{entry(1)}); err != nil || len(failures) != 0 {
		t.Errorf("a refused call: %v, %+v", err, failures)
	}
}

func TestRouteCallsThatAreNotSent(t *testing.T) {
	c := newTestClient(t, newFakeCloud(t, func(_ int, q url.Values) answer {
		t.Errorf("sent %v", q)
		return ok(`{"RequestId":"R"}`)
	}))
	good := cloud.NewRouteEntry{Destination: block(1), InstanceID: "i-1", Name: "n"}
	for name, entries := range map[string][]cloud.NewRouteEntry{
		"none": nil, "too many": slices.Repeat([]cloud.NewRouteEntry{good}, 51), "no instance": {{Destination: block(1)}},
		"no destination": {{InstanceID: "i-1"}}, "IPv6": {{Destination: netip.MustParsePrefix("fd00::/64"), InstanceID: "i-1"}},
	} {
		if _, err := c.CreateRouteEntries(t.Context(), "vtb-1", entries); cloud.ClassOf(err) != cloud.Invalid {
			t.Errorf("create %s: %v", name, err)
		}
	}
	for name, e := range map[string]cloud.RouteEntry{
		"no id":       {TableID: "vtb-1", Destination: block(1), NextHops: []cloud.NextHop{{ID: "i-1"}}},
		"other table": {ID: "rte-1", TableID: "vtb-2", Destination: block(1), NextHops: []cloud.NextHop{{ID: "i-1"}}},
	} {
		if _, err := c.DeleteRouteEntries(t.Context(), "vtb-1", []cloud.RouteEntry{e}); cloud.ClassOf(err) != cloud.Invalid {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if _, err := c.DescribeRouteEntries(t.Context(), ""); cloud.ClassOf(err) != cloud.Invalid {
		t.Error(err)
	}
	if _, err := c.DescribeRouteTables(t.Context(), ""); cloud.ClassOf(err) != cloud.Invalid {
		t.Error(err)
	}
}

func TestDescribeInstancesInPortions(t *testing.T) {
	f := newFakeCloud(t, func(n int, q url.Values) answer {
		var ids []string
		if err := json.Unmarshal([]byte(q.Get("InstanceIds")), &ids); err != nil || len(ids) > 100 {
			t.Errorf("%v, %d ids", err, len(ids))
		}
		var found []map[string]any
		for _, id := range ids {
			if id != "i-007" { // does not exist
				found = append(found, map[string]any{"InstanceId": id, "VpcAttributes": map[string]any{"VpcId": "vpc-1"}})
			}
		}
		b, err := json.Marshal(map[string]any{"RequestId": "R", "Instances": map[string]any{"Instance": found}})
		if err != nil {
			panic(err)
		}
		return ok(string(b))
	})
	var ids []string
	for i := range 150 {
		ids = append(ids, fmt.Sprintf("i-%03d", i))
	}
	got, err := newTestClient(t, f).DescribeInstances(t.Context(), ids)
	if err != nil || len(got) != 149 || len(f.calls) != 2 || got[0].VPCID != "vpc-1" {
		t.Errorf("%v, %d instances, %d calls", err, len(got), len(f.calls))
	}
}
