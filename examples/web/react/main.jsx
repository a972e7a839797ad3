import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { useDetector } from './useDetector.js';

function App() {
  const { detector, error } = useDetector('./model.safetensors');
  const [found, setFound] = useState([]);
  const [photo, setPhoto] = useState(null);

  async function choose({ target }) {
    const [file] = target.files;
    if (photo) URL.revokeObjectURL(photo);
    setPhoto(URL.createObjectURL(file));
    setFound(await detector.detect(file));
  }

  if (error) return <p role="status">{error.message}</p>;
  if (!detector) return <p role="status">Loading …</p>;
  return (
    <>
      <input type="file" accept="image/*" aria-label="Choose a photo" onChange={choose} />
      <p role="status">{found.map(({ label, score }) => `${label} ${score.toFixed(2)}`).join(', ') || 'Choose a photo.'}</p>
      <div style={{ position: 'relative', width: 'max-content' }}>
        {photo && <img src={photo} alt="" />}
        <svg style={{ position: 'absolute', inset: 0, width: '100%', height: '100%' }} fill="none" stroke="#0c8" strokeWidth="2">
          {found.map(({ query, box }) => (
            <rect key={query} x={box.xmin} y={box.ymin} width={box.xmax - box.xmin} height={box.ymax - box.ymin} />
          ))}
        </svg>
      </div>
    </>
  );
}

createRoot(document.getElementById('root')).render(<StrictMode><App /></StrictMode>);
