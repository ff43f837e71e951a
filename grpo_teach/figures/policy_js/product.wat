;; out[n, m] = a[n, k] · b[m, k]ᵀ in float32, four numbers at a time; added to out if `add`. k and m are multiples of 4,
;; a, b and out are addresses in bytes. arrays.js holds what wabt's wat2wasm makes of it, in base64.
(module
  (memory (export "memory") 1)
  (func (export "product")
    (param $a i32) (param $b i32) (param $out i32) (param $n i32) (param $k i32) (param $m i32) (param $add i32)
    (local $j i32) (local $row i32) (local $t i32) (local $end i32) (local $p i32) (local $q i32) (local $r i32) (local $s i32)
    (local $x v128) (local $c0 v128) (local $c1 v128) (local $c2 v128) (local $c3 v128)
    (local.set $row (i32.shl (local.get $k) (i32.const 2)))
    (block $done
      (loop $rows
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $p (local.get $b))
        (local.set $j (local.get $m))
        (loop $columns
          (local.set $c0 (v128.const f32x4 0 0 0 0))
          (local.set $c1 (v128.const f32x4 0 0 0 0))
          (local.set $c2 (v128.const f32x4 0 0 0 0))
          (local.set $c3 (v128.const f32x4 0 0 0 0))
          (local.set $q (i32.add (local.get $p) (local.get $row)))
          (local.set $r (i32.add (local.get $q) (local.get $row)))
          (local.set $s (i32.add (local.get $r) (local.get $row)))
          (local.set $t (local.get $a))
          (local.set $end (i32.add (local.get $a) (local.get $row)))
          (loop $inner
            (local.set $x (v128.load (local.get $t)))
            (local.set $c0 (f32x4.add (local.get $c0) (f32x4.mul (local.get $x) (v128.load (local.get $p)))))
            (local.set $c1 (f32x4.add (local.get $c1) (f32x4.mul (local.get $x) (v128.load (local.get $q)))))
            (local.set $c2 (f32x4.add (local.get $c2) (f32x4.mul (local.get $x) (v128.load (local.get $r)))))
            (local.set $c3 (f32x4.add (local.get $c3) (f32x4.mul (local.get $x) (v128.load (local.get $s)))))
            (local.set $t (i32.add (local.get $t) (i32.const 16)))
            (local.set $p (i32.add (local.get $p) (i32.const 16)))
            (local.set $q (i32.add (local.get $q) (i32.const 16)))
            (local.set $r (i32.add (local.get $r) (i32.const 16)))
            (local.set $s (i32.add (local.get $s) (i32.const 16)))
            (br_if $inner (i32.lt_u (local.get $t) (local.get $end))))
          ;; the four sums side by side: add across each of c0 to c3
          (local.set $x
            (f32x4.add
              (i8x16.shuffle 0 1 2 3 16 17 18 19 8 9 10 11 24 25 26 27 (local.get $c0) (local.get $c1))
              (i8x16.shuffle 4 5 6 7 20 21 22 23 12 13 14 15 28 29 30 31 (local.get $c0) (local.get $c1))))
          (local.set $c2
            (f32x4.add
              (i8x16.shuffle 0 1 2 3 16 17 18 19 8 9 10 11 24 25 26 27 (local.get $c2) (local.get $c3))
              (i8x16.shuffle 4 5 6 7 20 21 22 23 12 13 14 15 28 29 30 31 (local.get $c2) (local.get $c3))))
          (local.set $x
            (f32x4.add
              (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $x) (local.get $c2))
              (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $x) (local.get $c2))))
          (if (local.get $add) (then (local.set $x (f32x4.add (local.get $x) (v128.load (local.get $out))))))
          (v128.store (local.get $out) (local.get $x))
          (local.set $out (i32.add (local.get $out) (i32.const 16)))
          (local.set $p (local.get $s)) ;; s has run through its row: the next four rows of b begin here
          (br_if $columns (local.tee $j (i32.sub (local.get $j) (i32.const 4)))))
        (local.set $a (local.get $end))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $rows)))))
