package idmap_test

import (
	"fmt"

	"github.com/idmount/idmount/idmap"
)

func ExampleParse() {
	m, err := idmap.Parse([]string{"b:0:100000:65536", "u:100000:0:1"}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	view, ok := m.ViewUID(33)
	fmt.Println(view, ok)
	_, ok = m.ViewUID(70000)
	fmt.Println(ok)
	fmt.Print(m.UIDMapText())
	// Output:
	// 100033 true
	// false
	// 0 100000 65536
	// 100000 0 1
}

func ExampleParse_error() {
	_, err := idmap.Parse([]string{"u:0:0:10", "b:0:1000:-1"}, nil)
	fmt.Println(err)
	// Output: map entry 2 "b:0:1000:-1": count must be 1..4294967295
}

func ExampleMap_Warnings() {
	m, err := idmap.Parse([]string{"u:1000:1001:1"}, nil)
	fmt.Println(m, err)
	for _, w := range m.Warnings() {
		fmt.Println(w)
	}
	// Output:
	// u:1000:1001:1 <nil>
	// no gid is mapped: every file's group shows as 65534, and no file can be created; add g or u entries, or use b to map both
}

func ExampleViewFileCap() {
	m, _ := idmap.Parse([]string{"b:0:100000:65536"}, nil)
	disk := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_raw=ep
	view, err := idmap.ViewFileCap(m, disk)
	fmt.Printf("revision %d, rootid %d, %v\n", view[3], le.Uint32(view[20:]), err)
	// Output: revision 3, rootid 100000, <nil>
}
