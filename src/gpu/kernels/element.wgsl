// What a kernel reads and writes at a time: with VECTOR four channels, which must be a multiple of four.

#if VECTOR
alias Element = vec4<f32>;
#else
alias Element = f32;
#end
